// SPDX-License-Identifier: GPL-2.0

//! The attributes of the stand-in `kernel` crate that are no plain macros.

use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// As the kernel's; nothing here depends on where a value lies, so it only takes `#[pin]` off the fields.
#[proc_macro_attribute]
pub fn pin_data(_args: TokenStream, item: TokenStream) -> TokenStream {
    item.into_iter()
        .map(|token| match token {
            TokenTree::Group(fields) if fields.delimiter() == Delimiter::Brace => {
                TokenTree::Group(Group::new(Delimiter::Brace, without_pin(fields.stream())))
            }
            other => other,
        })
        .collect()
}

fn without_pin(fields: TokenStream) -> TokenStream {
    let mut out = Vec::new();
    for token in fields {
        let is_pin = matches!(&token, TokenTree::Group(g)
            if g.delimiter() == Delimiter::Bracket && g.stream().to_string() == "pin");
        if is_pin {
            // The `#` before it.
            out.pop();
        } else {
            out.push(token);
        }
    }
    out.into_iter().collect()
}
