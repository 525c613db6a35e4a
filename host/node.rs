// SPDX-License-Identifier: GPL-2.0

//! A second node, in the place of KVM's: the misc device `kvm` with the minor number that is reserved for it. The
//! `kernel` crate's own registration takes whatever number is free, and then whoever has the number 10:232 from
//! elsewhere, a static node of udev's say, would not reach the module, and KVM would not see that its place is taken.

use core::mem::size_of;
use kernel::bindings;
use kernel::error::to_result;
use kernel::miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration};
use kernel::prelude::*;
use static_assertions::const_assert;

/// The minor number of /dev/kvm. Linux allocated devices, "10 char: Non-serial mice, misc features".
const KVM_MINOR: i32 = 232;

const_assert!(size_of::<MiscDeviceRegistration<()>>() == size_of::<bindings::miscdevice>());

/// The registration of /dev/kvm, if there is one.
pub(crate) type KvmNode<T> = Option<Pin<KBox<MiscDeviceRegistration<T>>>>;

/// Makes /dev/kvm if it is wanted.
///
/// # Errors
/// `EBUSY`, with a line in the log, where the place is taken; `ENOMEM`.
pub(crate) fn kvm_node<T: MiscDevice>(is_wanted: bool) -> Result<KvmNode<T>> {
    if !is_wanted {
        return Ok(None);
    }
    let made = KBox::try_pin_init(register(MiscDeviceOptions { name: c"kvm" }, KVM_MINOR), GFP_KERNEL);
    if matches!(&made, Err(e) if *e == EBUSY) {
        pr_err!("/dev/kvm is taken: unload kvm_amd or kvm_intel first, or load without kvm_node\n");
    }
    made.map(Some)
}

fn register<T: MiscDevice>(
    options: MiscDeviceOptions,
    minor: i32,
) -> impl PinInit<MiscDeviceRegistration<T>, Error> {
    let fill = move |slot: *mut MiscDeviceRegistration<T>| {
        let slot = slot.cast::<bindings::miscdevice>();
        let mut device = options.into_raw::<T>();
        device.minor = minor;
        // SAFETY: The registration is a transparent wrapper of this structure, and the slot is there to be written.
        unsafe { slot.write(device) };
        // SAFETY: The device is valid, and pinned until the registration's drop takes it back.
        to_result(unsafe { bindings::misc_register(slot) })
    };
    // SAFETY: On success the slot holds a registered device made by `into_raw`, which is what the registration asks
    // for; on failure it holds nothing that wants dropping. The slot does not move.
    unsafe { pin_init::pin_init_from_closure(fill) }
}
