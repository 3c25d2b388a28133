//! The form of a value that an operator sets, whichever source it comes from: a flag, a variable, or a file.

/// The value without surrounding white space, such as the newline at the end of a file that a Secret was made from.
///
/// # Errors
///
/// It holds a control character. The value is not repeated: it may be a password.
pub fn trimmed(text: &str) -> Result<&str, String> {
    let text = text.trim();
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!(
            "holds a control character (U+{:04X})",
            u32::from(c)
        )),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_trimmed_around_a_value_and_not_within() {
        assert_eq!(trimmed("\r\n a b\t\n"), Ok("a b"));
        assert_eq!(trimmed(" \n"), Ok(""));
    }

    #[test]
    fn a_control_character_is_named_and_the_value_is_not() {
        for (text, name) in [
            ("pass\nword", "U+000A"),
            ("pass\0", "U+0000"),
            ("pass\u{85}word", "U+0085"),
        ] {
            let fault = trimmed(text).expect_err("a fault");
            assert!(fault.contains(name), "{fault}");
            assert!(!fault.contains("pass"), "{fault}");
        }
    }
}
