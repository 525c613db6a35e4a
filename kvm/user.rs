// SPDX-License-Identifier: GPL-2.0

//! Copies of ABI structures from and to user space: each is fetched once, whole.

use kernel::prelude::*;
use kernel::uaccess::{UserPtr, UserSlice};
use zerocopy::{FromBytes, Immutable, IntoBytes};

fn slice(addr: u64, len: usize) -> Result<UserSlice> {
    let at = usize::try_from(addr).map_err(|_| EFAULT)?;
    Ok(UserSlice::new(UserPtr::from_addr(at), len))
}

/// Reads a structure at user address `addr`.
///
/// # Errors
/// `EFAULT`.
pub(super) fn read<T: FromBytes + IntoBytes>(addr: u64) -> Result<T> {
    let mut value = T::new_zeroed();
    slice(addr, size_of::<T>())?.reader().read_slice(value.as_mut_bytes())?;
    Ok(value)
}

/// Writes a structure to user address `addr`.
///
/// # Errors
/// `EFAULT`.
pub(super) fn write<T: IntoBytes + Immutable>(addr: u64, value: &T) -> Result {
    slice(addr, size_of::<T>())?.writer().write_slice(value.as_bytes())
}

/// Writes bytes to user address `addr`.
///
/// # Errors
/// `EFAULT`.
pub(super) fn write_bytes(addr: u64, bytes: &[u8]) -> Result {
    slice(addr, bytes.len())?.writer().write_slice(bytes)
}

/// Reads bytes from user address `addr`.
///
/// # Errors
/// `EFAULT`.
pub(super) fn read_bytes(addr: u64, bytes: &mut [u8]) -> Result {
    slice(addr, bytes.len())?.reader().read_slice(bytes)
}

/// Reads `n` structures that follow a header of type `H` at `addr`.
///
/// # Errors
/// `E2BIG` for more than `max`, `ENOMEM`, `EFAULT`.
pub(super) fn read_array<H, T: FromBytes + IntoBytes + Copy>(
    addr: u64,
    n: u32,
    max: usize,
) -> Result<KVec<T>> {
    let n = usize::try_from(n)?;
    if n > max {
        return Err(E2BIG);
    }
    let mut out = KVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
    let mut at = addr.checked_add(size_of::<H>() as u64).ok_or(EFAULT)?;
    for _ in 0..n {
        out.push_within_capacity(read::<T>(at)?)?;
        at = at.checked_add(size_of::<T>() as u64).ok_or(EFAULT)?;
    }
    Ok(out)
}

/// Writes structures after a header of type `H` at `addr`.
///
/// # Errors
/// `EFAULT`.
pub(super) fn write_array<H, T: IntoBytes + Immutable>(addr: u64, items: &[T]) -> Result {
    let at = addr.checked_add(size_of::<H>() as u64).ok_or(EFAULT)?;
    write_bytes(at, items.as_bytes())
}
