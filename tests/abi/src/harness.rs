// SPDX-License-Identifier: GPL-2.0

//! Runs tests one after the other and prints KTAP. A test fails by panicking and skips by [`skip`].

use crate::raw;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use std::ffi::CString;
use std::panic::{catch_unwind, panic_any, set_hook, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// A name and what it runs.
pub type Test = (&'static str, fn(&Ctx));

/// How long a test may take where nobody says; emulated machines are slow.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What every test gets.
pub struct Ctx {
    /// The node under test.
    pub kvm: Kvm,
    /// It is the stock kernel's.
    is_stock: bool,
}

impl Ctx {
    /// Opens the node.
    pub fn open(path: &str) -> Result<Ctx, String> {
        let is_stock = path == "/dev/kvm";
        let path = CString::new(path).map_err(|_| "path holds a zero byte")?;
        let kvm = Kvm::new_with_path(path.as_c_str()).map_err(|e| e.to_string())?;
        Ok(Ctx { kvm, is_stock })
    }

    /// Returns whether the node is the stock kernel's.
    pub fn is_stock(&self) -> bool {
        self.is_stock
    }

    /// Ends the test as skipped on stock KVM, which does otherwise than a processor.
    pub fn skip_on_kvm(&self, why: &'static str) {
        if self.is_stock {
            skip(why);
        }
    }

    /// Makes an empty VM.
    pub fn vm(&self) -> VmFd {
        self.kvm.create_vm().expect("KVM_CREATE_VM")
    }

    /// Makes a VM without interrupt controllers and one vCPU in it.
    pub fn vcpu(&self) -> (VmFd, VcpuFd) {
        let vm = self.vm();
        vm.set_tss_address(0xfffb_d000).expect("KVM_SET_TSS_ADDR");
        let vcpu = vm.create_vcpu(0).expect("KVM_CREATE_VCPU");
        (vm, vcpu)
    }
}

struct Skip(&'static str);

/// Ends the test as skipped.
pub fn skip(why: &'static str) -> ! {
    panic_any(Skip(why))
}

/// Checks that a raw ioctl failed with one of `errnos`.
#[track_caller]
pub fn refused(result: Result<i32, i32>, errnos: &[i32]) {
    match result {
        Err(e) if errnos.contains(&e) => {}
        other => panic!("{other:?}, expected one of the errors {errnos:?}"),
    }
}

/// How many times as long as usual things may take.
static SLOWNESS: AtomicU64 = AtomicU64::new(1);

/// Returns how many times as long as usual things may take on this host: as it was told by its limit.
pub fn slowness() -> u64 {
    SLOWNESS.load(SeqCst)
}

/// Runs the tests, each for `limit` at most. Returns the exit code.
pub fn run(ctx: &Ctx, tests: &[&Test], limit: Duration) -> u8 {
    set_hook(Box::new(|info| {
        if info.payload().downcast_ref::<Skip>().is_none() {
            info.to_string().lines().for_each(|l| println!("# {l}"));
        }
    }));
    SLOWNESS.store((limit.as_secs() / LIMIT.as_secs()).max(1), SeqCst);
    let started = Instant::now();
    let deadline: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(u64::MAX)));
    std::thread::spawn(move || loop {
        std::thread::sleep(Duration::from_millis(200));
        if started.elapsed().as_millis() as u64 > deadline.load(SeqCst) {
            println!("Bail out! The test takes longer than {limit:?}");
            std::process::exit(1);
        }
    });
    raw::ignore_sigusr1();
    println!("KTAP version 1\n1..{}", tests.len());
    let (mut failed, mut skipped) = (0, 0);
    for (i, (name, test)) in tests.iter().enumerate() {
        deadline.store((started.elapsed() + limit).as_millis() as u64, SeqCst);
        let n = i + 1;
        match catch_unwind(AssertUnwindSafe(|| test(ctx))) {
            Ok(()) => println!("ok {n} {name}"),
            Err(e) => match e.downcast_ref::<Skip>() {
                Some(Skip(why)) => {
                    skipped += 1;
                    println!("ok {n} {name} # SKIP {why}");
                }
                None => {
                    failed += 1;
                    println!("not ok {n} {name}");
                }
            },
        }
    }
    println!("# passed {} failed {failed} skipped {skipped}", tests.len() - failed - skipped);
    match (failed, skipped) {
        (0, s) if s == tests.len() => 4,
        (0, _) => 0,
        _ => 1,
    }
}
