//! Output of the subcommands: tables of facts, numbers, names of the proto, and JSON.

use std::io::{Write as _, stdout};

use anyhow::Context as _;
use comfy_table::{Table, presets};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use crate::grpc::proto::BilledReason;

/// Prints to standard output. A closed pipe, such as that of `head`, is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
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
    match BilledReason::try_from(number) {
        Ok(reason) => {
            let name = reason.as_str_name();
            name.strip_prefix("BILLED_REASON_")
                .unwrap_or(name)
                .to_owned()
        }
        Err(_) => format!("reason {number}"),
    }
}

/// The canonical JSON of a message, but with the proto's field names, all fields, and 64-bit integers as numbers (none
/// exceeds 2^53).
pub(crate) fn json(
    descriptors: &[u8],
    message: &str,
    answer: &impl prost::Message,
) -> anyhow::Result<String> {
    let pool = DescriptorPool::decode(descriptors).context("the proto's descriptors")?;
    let descriptor = pool
        .get_message_by_name(message)
        .with_context(|| format!("the proto has no {message}"))?;
    let answer = DynamicMessage::decode(descriptor, answer.encode_to_vec().as_slice())?;
    let options = SerializeOptions::new()
        .stringify_64_bit_integers(false)
        .use_proto_field_name(true)
        .skip_default_fields(false);
    let mut text = Vec::new();
    answer.serialize_with_options(&mut serde_json::Serializer::pretty(&mut text), &options)?;
    Ok(String::from_utf8(text)?)
}

/// "1 row", "2 rows".
pub(crate) fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", grouped(number as u64))
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
