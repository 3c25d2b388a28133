//! The fields of a body that an estimate depends on.

use enum_map::Enum;
use strum::{EnumString, IntoStaticStr};

/// The name of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(super) enum Key {
    Audio,
    Content,
    Conversation,
    EncryptedContent,
    FileId,
    Functions,
    ImageUrl,
    Input,
    MaxCompletionTokens,
    MaxOutputTokens,
    MaxTokens,
    Messages,
    Model,
    N,
    Output,
    PreviousResponseId,
    Prompt,
    Refusal,
    Role,
    ServiceTier,
    Summary,
    Text,
    Tools,
    Type,
    WebSearchOptions,
    /// Any other.
    #[strum(disabled)]
    Other,
}
