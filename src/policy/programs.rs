//! The built-in programmes, which a policy file may extend. Each is a policy file without organizations.

use super::Policy;

/// A built-in programme.
#[derive(Debug)]
pub struct BuiltinProgram {
    /// Its name, for `extends`: the provider's, and the day of its lists of models.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// The programmes, the newest last: it is the built-in policy's.
pub static PROGRAMS: [BuiltinProgram; 2] = [
    BuiltinProgram {
        name: "openai-2025-06-27",
        text: include_str!("programs/openai-2025-06-27.toml"),
    },
    BuiltinProgram {
        name: "openai-2026-09-28",
        text: include_str!("programs/openai-2026-09-28.toml"),
    },
];

impl BuiltinProgram {
    /// The programme as a policy, without organizations.
    ///
    /// # Panics
    ///
    /// Never: the text is part of the program, and a test reads it.
    pub fn policy(&self) -> Policy {
        Policy::parse(self.name, self.text).expect("a test reads every built-in programme")
    }

    /// The newest programme.
    pub fn newest() -> &'static Self {
        &PROGRAMS[PROGRAMS.len() - 1]
    }

    /// The programme of this name.
    ///
    /// # Errors
    ///
    /// Names the programmes that there are.
    pub fn named(name: &str) -> Result<&'static Self, String> {
        let program = PROGRAMS.iter().find(|program| program.name == name);
        program.ok_or_else(|| {
            let known = PROGRAMS.each_ref().map(|it| it.name).join("\", \"");
            format!("{name:?} is no built-in programme; there are \"{known}\"")
        })
    }
}
