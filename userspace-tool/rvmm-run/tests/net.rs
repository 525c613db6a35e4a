// SPDX-License-Identifier: GPL-2.0

//! Network cards: options.

use rvmm_run::config::net::{MacAddress, NetKind, NetSpec};

#[test]
fn options_are_parsed() {
    let net: NetSpec = "tap=vm0,mac=52:54:00:aB:cd:ef,mtu=9000,queues=4".parse().unwrap();

    assert_eq!(net.kind, NetKind::Tap("vm0".to_string()));
    assert_eq!(net.mac, MacAddress([0x52, 0x54, 0, 0xab, 0xcd, 0xef]));
    assert_eq!((net.mtu, net.queues), (Some(9000), Some(4)));
}

#[test]
fn a_card_without_an_address_gets_one_that_stays() {
    let first: NetSpec = "tap=vm0".parse().unwrap();
    let again: NetSpec = "tap=vm0,mtu=1400".parse().unwrap();
    let other: NetSpec = "tap=vm1".parse().unwrap();

    assert_eq!(first.mac, again.mac);
    assert_ne!(first.mac, other.mac);
    assert_eq!(first.mac.0[..3], [0x52, 0x54, 0]);
}

#[test]
fn arguments_for_passt_are_passed_on() {
    let net: NetSpec = "user,passt=-t,passt=2222:22,mtu=1500".parse().unwrap();

    assert_eq!(net.kind, NetKind::User(vec!["-t".to_string(), "2222:22".to_string()]));
    assert_eq!(net.mtu, Some(1500));
}

#[test]
fn bad_options_are_refused() {
    for bad in [
        "",
        "vm0",
        "tap=",
        "tap=a/b",
        "tap=a b",
        "tap=eth%d",
        "tap=abcdefghijklmnop",
        "tap=vm0,mac=1",
        "tap=vm0,mac=",
        "tap=vm0,mac=01:00:00:00:00:00",
        "tap=vm0,mac=00:00:00:00:00:00",
        "tap=vm0,mac=52:54:00:12:34:56:78",
        "tap=vm0,mac=52:54:00:12:34:5g",
        "tap=vm0,mac=52:54:00:12:34:+6",
        "tap=vm0,mtu=67",
        "tap=vm0,mtu=65536",
        "tap=vm0,mtu=",
        "tap=vm0,queues=0",
        "tap=vm0,queues=9",
        "tap=vm0,ro",
        "tap=vm0,packed",
        "tap=vm0,",
        "tap=vm0,passt=-q",
        "users",
        "user,queues=2",
        "user=x",
    ] {
        assert!(bad.parse::<NetSpec>().is_err(), "{bad}");
    }
}
