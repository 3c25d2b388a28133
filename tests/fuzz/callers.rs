//! Any text as a callers file: either faults on existing lines, or callers that can be identified and have rights. A
//! hash in the file identifies nobody if it is presented as a token.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate::auth::{Callers, Organizations, Peer, PortSecurity, TokenHash};

fuzz_target!(|text: &str| {
    match Callers::parse("fuzz.toml", text.as_bytes()) {
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
                // No text is its own hash.
                assert!(callers.identify(&peer, Some(&TokenHash::of(word.as_bytes()))).is_err());
            }
        }
    }
});
