// SPDX-License-Identifier: GPL-2.0

//! Error numbers with the kernel crate's names.

use crate::alloc::AllocError;

/// A negative errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(i32);

/// A result whose error is an errno.
pub type Result<T = (), E = Error> = core::result::Result<T, E>;

impl Error {
    /// Returns the error of a negative errno; anything else becomes `EINVAL`.
    pub fn from_errno(errno: i32) -> Error {
        if (-4095..0).contains(&errno) {
            Error(errno)
        } else {
            code::EINVAL
        }
    }

    /// Returns the negative errno.
    pub fn to_errno(self) -> i32 {
        self.0
    }
}

impl From<AllocError> for Error {
    fn from(_: AllocError) -> Error {
        code::ENOMEM
    }
}

impl<T> From<crate::alloc::PushError<T>> for Error {
    fn from(_: crate::alloc::PushError<T>) -> Error {
        code::EINVAL
    }
}

impl From<core::num::TryFromIntError> for Error {
    fn from(_: core::num::TryFromIntError) -> Error {
        code::EINVAL
    }
}

impl From<core::convert::Infallible> for Error {
    fn from(never: core::convert::Infallible) -> Error {
        match never {}
    }
}

impl From<core::fmt::Error> for Error {
    fn from(_: core::fmt::Error) -> Error {
        code::EINVAL
    }
}

/// Turns a negative errno into an error.
///
/// # Errors
/// That one.
pub fn to_result(errno: i32) -> Result {
    if errno < 0 {
        Err(Error::from_errno(errno))
    } else {
        Ok(())
    }
}

/// The error numbers.
pub mod code {
    use super::Error;

    macro_rules! errno {
        ($($name:ident = $n:literal),* $(,)?) => {
            $(
                #[allow(missing_docs)]
                pub const $name: Error = Error(-$n);
            )*
        };
    }

    errno! {
        EPERM = 1, ENOENT = 2, ESRCH = 3, EINTR = 4, EIO = 5, ENXIO = 6, E2BIG = 7, ENOEXEC = 8, EBADF = 9,
        EAGAIN = 11, ENOMEM = 12, EACCES = 13, EFAULT = 14, EBUSY = 16, EEXIST = 17, ENODEV = 19,
        EINVAL = 22, EMFILE = 24, ENOTTY = 25, EFBIG = 27, ENOSPC = 28, ESPIPE = 29, EROFS = 30, EPIPE = 32,
        ERANGE = 34, ENOSYS = 38,
        EBADFD = 77, EOPNOTSUPP = 95, ENOTCONN = 107, ERESTARTSYS = 512, EIOCBQUEUED = 529,
    }
}
