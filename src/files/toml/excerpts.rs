//! Splits a document into the tables of one table, such as `[orgs.NAME]`, and the rest, so that they can be parsed one
//! after the other: parsing takes 40 times the memory of its text.
//!
//! Lines of one table may stand apart, as `[orgs.a]` and a later `[orgs.a.shares]`. They are one excerpt.

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    iter::Peekable,
};

use toml_parser::{
    Source,
    lexer::{Lexer, Token, TokenKind},
};

/// A document's text, split.
pub(super) struct Split<'t> {
    text: &'t str,
    /// By table, and in the document's order within each.
    parts: Vec<Part>,
}

/// Successive lines of a document.
struct Part {
    /// The hash of the table's name; none: the rest. Two tables with one hash are parsed as one excerpt.
    table: Option<u32>,
    start: u32,
    end: u32,
    /// The number of the first line.
    line: u32,
}

/// Lines of a document as one text.
pub(super) struct Excerpt<'t> {
    pub(super) text: Cow<'t, str>,
    /// The parts' starts in the text, and the numbers of their first lines.
    parts: Vec<(usize, usize)>,
}

type LexedTokens<'t> = Peekable<Lexer<'t>>;

impl<'t> Split<'t> {
    /// Splits a text at the headers of `parent`'s tables.
    pub(super) fn of(text: &'t str, parent: &str) -> Self {
        let source = Source::new(text);
        let mut tokens = source.lex().peekable();
        let mut split = Self {
            text,
            parts: vec![Part {
                table: None,
                start: 0,
                end: size(text.len()),
                line: 1,
            }],
        };
        let (mut line_start, mut is_line_start, mut depth) = (0, true, 0_usize);
        while let Some(token) = tokens.next() {
            let was_line_start = std::mem::take(&mut is_line_start);
            match token.kind() {
                TokenKind::Newline => (line_start, is_line_start) = (token.span().end(), true),
                TokenKind::Whitespace => is_line_start = was_line_start,
                TokenKind::LeftSquareBracket if was_line_start => {
                    let (brackets, name) = header(&mut tokens, source, parent);
                    match name {
                        // No value begins like that, so the brackets before it were not closed.
                        Some(name) => {
                            depth = 0;
                            split.begin(Some(hash(&name)), line_start);
                        }
                        None if depth == 0 => split.begin(None, line_start),
                        None => depth += brackets,
                    }
                }
                TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => depth += 1,
                TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => {
                    depth = depth.saturating_sub(1);
                }
                _ => {}
            }
        }
        split
            .parts
            .sort_unstable_by_key(|part| (part.table, part.start));
        split
    }

    /// Begins a part, unless the lines before are of the same table.
    fn begin(&mut self, table: Option<u32>, start: usize) {
        let Some(last) = self.parts.last_mut() else {
            return;
        };
        if last.table == table {
            return;
        }
        let end = std::mem::replace(&mut last.end, size(start));
        let line = last.line + size(last.text(self.text).matches('\n').count());
        let start = last.end;
        self.parts.push(Part {
            table,
            start,
            end,
            line,
        });
    }

    /// What is in none of the tables.
    pub(super) fn rest(&self) -> Excerpt<'t> {
        let tables = self.parts.partition_point(|part| part.table.is_none());
        Excerpt::of(self.text, &self.parts[..tables])
    }

    /// The tables, in no order.
    pub(super) fn tables(&self) -> impl Iterator<Item = Excerpt<'t>> {
        let tables = self.parts.chunk_by(|one, next| one.table == next.table);
        let tables = tables.filter(|parts| parts[0].table.is_some());
        tables.map(|parts| Excerpt::of(self.text, parts))
    }

    /// The highest number of tables that there can be.
    pub(super) fn max_tables(&self) -> usize {
        self.parts.len()
    }
}

impl Part {
    fn text<'t>(&self, text: &'t str) -> &'t str {
        &text[self.start as usize..self.end as usize]
    }
}

impl<'t> Excerpt<'t> {
    /// A whole document.
    pub(super) fn whole(text: &'t str) -> Self {
        Self {
            text: Cow::Borrowed(text),
            parts: vec![(0, 1)],
        }
    }

    fn of(text: &'t str, parts: &[Part]) -> Self {
        let mut excerpt = Self {
            text: Cow::Borrowed(""),
            parts: Vec::with_capacity(parts.len()),
        };
        for part in parts {
            excerpt.parts.push((excerpt.text.len(), part.line as usize));
            excerpt.text += part.text(text);
        }
        excerpt
    }

    /// The start of the part at this place of the text, and the number of its first line.
    pub(super) fn part_at(&self, at: usize) -> (usize, usize) {
        let after = self.parts.partition_point(|(start, _)| *start <= at);
        self.parts[after.saturating_sub(1)]
    }
}

/// Reads a header behind its first bracket: the number of its brackets, and the name if it is one of `parent`'s tables.
fn header<'t>(
    tokens: &mut LexedTokens<'t>,
    source: Source<'t>,
    parent: &str,
) -> (usize, Option<Cow<'t, str>>) {
    let is = |kind| move |token: &Token| token.kind() == kind;
    let second = tokens.next_if(is(TokenKind::LeftSquareBracket));
    let mut name = || {
        let _ = key(tokens, source).filter(|key| key == parent)?;
        tokens.next_if(is(TokenKind::Whitespace));
        tokens.next_if(is(TokenKind::Dot))?;
        key(tokens, source)
    };
    (1 + usize::from(second.is_some()), name())
}

/// Reads one key of a dotted key.
fn key<'t>(tokens: &mut LexedTokens<'t>, source: Source<'t>) -> Option<Cow<'t, str>> {
    tokens.next_if(|token| token.kind() == TokenKind::Whitespace);
    let token = tokens
        .next_if(|token| token.kind() == TokenKind::Atom || token.kind().encoding().is_some())?;
    let mut key = Cow::Borrowed("");
    // Its faults are reported when the excerpt is parsed.
    source.get(token)?.decode_key(&mut key, &mut ());
    Some(key)
}

fn hash(name: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() as u32
}

/// No document that is read has 4 GiB.
fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
