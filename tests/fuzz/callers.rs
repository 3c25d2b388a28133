//! Any text as a callers file: either faults with lines that exist, or callers that each can be known and may
//! do something. No text makes anybody known by a token that is only its hash.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate::auth::{Callers, Organizations, Peer, PortSecurity, TokenHash};

fuzz_target!(|text: &str| {
    match Callers::parse("fuzz.toml", text) {
        Err(faults) => {
            assert!(!faults.faults.is_empty());
            let lines = text.split('\n').count();
            assert!(faults.faults.iter().all(|fault| (1..=lines).contains(&fault.line)), "{faults}");
        }
        Ok(callers) => {
            assert!(callers.iter().len() > 0);
            for caller in callers.iter() {
                assert!(!caller.roles.is_empty());
                assert!(!caller.certificates.is_empty() || (1..=2).contains(&caller.tokens.len()));
                if let Organizations::Named(orgs) = &caller.organizations {
                    assert!(!orgs.is_empty() && !orgs.contains("*"));
                }
            }
            let peer = Peer::on(PortSecurity { encrypted: true, loopback: false }, None);
            assert!(callers.identify(&peer, None).is_err());
            for word in text.split('"') {
                // Nobody finds a text that is its own hash, nor one whose hash stands beside it.
                assert!(callers.identify(&peer, Some(&TokenHash::of(word.as_bytes()))).is_err());
            }
        }
    }
});
