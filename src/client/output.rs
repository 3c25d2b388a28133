//! Output of the subcommands: tables of facts, numbers, names of the proto, and JSON.

use std::{
    io::{ErrorKind, Write as _, stdout},
    ops::ControlFlow,
};

use anyhow::Context as _;
use comfy_table::{Table, presets};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use crate::grpc::proto::{self, BilledReason};

/// Prints to standard output. A closed pipe, such as that of `head`, is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    print_part(text).map(drop)
}

/// Prints a part of the output. `Break`: the pipe is closed, nobody reads further parts.
pub(crate) fn print_part(text: &str) -> anyhow::Result<ControlFlow<()>> {
    match writeln!(stdout(), "{}", text.trim_end()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn facts() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

pub(crate) fn fact(table: &mut Table, name: &str, value: impl ToString) {
    table.add_row([name.to_owned(), value.to_string()]);
}

pub(crate) fn reason(number: i32) -> String {
    let Ok(reason) = BilledReason::try_from(number) else {
        return format!("reason {number}");
    };
    reason.as_str_name().replace("BILLED_REASON_", "")
}

/// The canonical JSON of a message, but with the proto's field names, all fields, and 64-bit integers as numbers (none
/// exceeds 2^53).
pub(crate) fn json<T: prost::Name>(answer: &T) -> anyhow::Result<String> {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS)?;
    let descriptor = pool.get_message_by_name(&T::full_name());
    let descriptor = descriptor.context("an unknown message")?;
    let answer = DynamicMessage::decode(descriptor, answer.encode_to_vec().as_slice())?;
    let options = SerializeOptions::new()
        .stringify_64_bit_integers(false)
        .use_proto_field_name(true)
        .skip_default_fields(false);
    let mut text = Vec::new();
    answer.serialize_with_options(&mut serde_json::Serializer::pretty(&mut text), &options)?;
    Ok(String::from_utf8(text)?)
}

/// A name or a note without the invisible characters that change the direction or the order of a line, or its width: each is
/// shown as U+FFFD.
pub(crate) fn shown(name: &str) -> String {
    let is_invisible = |c| {
        matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    name.replace(is_invisible, "\u{fffd}")
}

/// "1 row", "2 rows".
pub(crate) fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", grouped(number as u64))
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    match number / 1_000 {
        0 => number.to_string(),
        thousands => format!("{},{:03}", grouped(thousands), number % 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_of_a_name_are_shown() {
        assert_eq!(shown("a\u{202e}b\u{200d}"), "a\u{fffd}b\u{fffd}");
        assert_eq!(shown("組織 é שלום"), "組織 é שלום");
    }
}
