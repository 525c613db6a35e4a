// SPDX-License-Identifier: GPL-2.0

//! The tool's configuration files. Their pseudo-random tests are beside the tool, in tests/config.rs.

use rvmm_run::config::file::error::SourceFile;
use rvmm_run::config::file::keys;
use rvmm_run::config::file::print::render;
use rvmm_run::config::spec::SpecLayer;
use std::path::Path;

/// The subjects of configuration files.
pub(crate) const TARGETS: &[crate::fuzz::Target] = &[("config", config_file)];

/// Any text is refused with a place inside of it, or is a VM that can be printed and read again.
fn config_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some(layer) = read(text) else { return };
    let kernel = SpecLayer { kernel: Some("k".into()), ..SpecLayer::default() };
    let spec = layer.over(kernel).finish().expect("there is a kernel");
    let again = read(&render(&spec)).expect("what was printed is right");
    assert_eq!(again.finish().expect("there is a kernel"), spec);
}

fn read(text: &str) -> Option<SpecLayer> {
    let source = SourceFile::new(Path::new("x.toml"), text);
    let layer = keys::parse(&source).layer;
    let errors = source.into_errors();
    for error in &errors {
        let (line, column) = error.place.expect("it is about a place");
        assert!(line <= text.lines().count() + 1 && column <= text.len() + 1, "{error}");
        assert!(!error.text.is_empty());
    }
    errors.is_empty().then_some(layer)
}
