//! Bearer tokens. The callers file has only their hashes, with which nobody can call.

use std::{array, fmt};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom as _, SystemRandom},
};
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};

use super::Unauthenticated;

/// The prefix of a hash in the callers file.
const ALGORITHM: &str = "sha256:";

/// The prefix of a token, by which secret scanners recognize it.
const PREFIX: &str = "tg_";

/// The SHA-256 of a token. Compared in constant time.
#[derive(Clone)]
pub struct TokenHash([u64; 4]);

/// The schemes of the `authorization` header that a port accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuthSchemes {
    /// `Bearer TOKEN`.
    Bearer,
    /// Also `Basic`, with the token as the password: for browsers.
    BearerOrBasic,
}

impl TokenHash {
    /// Hashes a token.
    pub fn of(token: &[u8]) -> Self {
        let hash = digest(&SHA256, token);
        Self(array::from_fn(|at| {
            let word = hash.as_ref()[at * 8..][..8].try_into();
            u64::from_be_bytes(word.expect("eight bytes"))
        }))
    }

    /// Parses a hash in the callers file.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(ALGORITHM)?;
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut words = [0; 4];
        for (at, word) in words.iter_mut().enumerate() {
            *word = u64::from_str_radix(&digits[at * 16..][..16], 16).ok()?;
        }
        Some(Self(words))
    }

    /// The hash of the token in a call's `authorization` headers; none if there is no such header. One that has another
    /// scheme or no token is malformed, and so are several.
    pub(crate) fn presented<'h>(
        headers: impl IntoIterator<Item = &'h [u8]>,
        schemes: AuthSchemes,
    ) -> Result<Option<Self>, Unauthenticated> {
        let mut headers = headers.into_iter();
        let token = match (headers.next(), headers.next()) {
            (None, _) => return Ok(None),
            (Some(header), None) => parse(header, schemes),
            (Some(_), Some(_)) => None,
        };
        token.map(Some).ok_or(Unauthenticated::MalformedHeader)
    }

    /// Its position among others, in constant time.
    pub(super) fn position_in<'t>(&self, all: impl Iterator<Item = &'t Self>) -> Option<usize> {
        let mut found = 0;
        for (number, hash) in (1_u64..).zip(all) {
            found.conditional_assign(&number, self.0.ct_eq(&hash.0));
        }
        usize::try_from(found).ok()?.checked_sub(1)
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

/// Formats it as in the callers file.
impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ALGORITHM)?;
        self.0.iter().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

fn parse(header: &[u8], schemes: AuthSchemes) -> Option<TokenHash> {
    let blank = header.iter().position(|b| *b == b' ')?;
    let (scheme, rest) = (&header[..blank], header[blank..].trim_ascii());
    let login;
    let token = match scheme.to_ascii_lowercase().as_slice() {
        b"bearer" => rest,
        b"basic" if schemes == AuthSchemes::BearerOrBasic => {
            login = BASE64_STANDARD.decode(rest).ok()?;
            login.splitn(2, |b| *b == b':').nth(1)?
        }
        _ => return None,
    };
    (!token.is_empty()).then(|| TokenHash::of(token))
}

/// A new token of 256 random bits.
pub(crate) fn new_token() -> String {
    let mut secret = [0; 32];
    let filled = SystemRandom::new().fill(&mut secret);
    filled.expect("the system gives random bytes");
    format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(secret))
}
