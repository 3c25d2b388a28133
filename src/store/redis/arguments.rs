//! The argument of `decide.lua`: a batch as MessagePack, which Redis' Lua unpacks in C.
//!
//! What many operations of a batch have in common is said once: the kinds of Reserves (pool, workload,
//! project, model) and the usage rows are tables, and an item names their places in them.

use std::collections::HashMap;

use super::{
    keys,
    letters::{letter, workload_letter},
};
use crate::{
    domain::{
        Eligibility, ModelName, Overflow, PoolName, ProjectId, RequestFields, RequestId, Terms,
        Tokens, UtcDay, Verdict, Workload,
    },
    store::{Operation, Recording},
};

/// The items that are no plain Reserve: decide.lua, "items".
const RESERVE_WITH_ID: i64 = -1;
const LOOK_WITH_ID: i64 = -2;
const LOOK: i64 = -3;
const SETTLE: i64 = -4;
const RELEASE: i64 = -5;

/// What holds for a whole batch.
pub(super) struct Head<'b> {
    pub(super) day: UtcDay,
    pub(super) usage_retention_secs: u64,
    pub(super) terms: &'b Terms,
    /// Pools that a record named, and the terms don't.
    pub(super) extra: &'b [PoolName],
}

/// A batch as the script's argument, and whether it names any id.
pub(super) struct Packed {
    pub(super) argument: Vec<u8>,
    pub(super) has_ids: bool,
}

/// Packs a batch.
pub(super) fn pack(head: &Head<'_>, operations: &[Operation]) -> Packed {
    let mut tables = Tables::default();
    let mut ids = Vec::new();
    let mut items = Array::with_room(operations.len() * 12);
    for operation in operations {
        ids.extend(push_item(&mut items, &mut tables, head.terms, operation));
    }
    let mut argument = pack_head(head).packed();
    let (mut fields, mut kinds, mut names) =
        (Array::default(), Array::default(), Array::default());
    for field in &tables.fields {
        fields.text(field);
    }
    for kind in &tables.kinds {
        match kind.target {
            Target::Pool(number) => kinds.number(number as u64),
            Target::Billed(letter) => kinds.text(letter.encode_utf8(&mut [0; 4])),
        }
        kinds.text(kind.workload.encode_utf8(&mut [0; 4]));
        kinds.number(kind.field as u64);
    }
    for id in &ids {
        names.text(id.as_str());
    }
    for array in [fields, kinds, names, items] {
        array.append_to(&mut argument);
    }
    Packed {
        argument,
        has_ids: !ids.is_empty(),
    }
}

fn pack_head(head: &Head<'_>) -> Array {
    let terms = head.terms;
    let mut array = Array::default();
    array.signed(head.day.start().timestamp());
    array.number(head.usage_retention_secs);
    array.flag(terms.overflow == Overflow::CloseUntilReset);
    let extra = head.extra.iter().map(|pool| (pool, Tokens::ZERO));
    let pools = terms.allowances.iter().map(|(pool, it)| (pool, *it));
    for (pool, allowance) in pools.chain(extra) {
        array.text(&keys::encode(pool.as_str()));
        array.number(allowance.get());
    }
    array
}

/// Adds one item, and gives the id that it is about.
fn push_item<'b>(
    items: &mut Array,
    tables: &mut Tables<'b>,
    terms: &Terms,
    operation: &'b Operation,
) -> Option<&'b RequestId> {
    match operation {
        Operation::Reserve {
            request_id,
            fields,
            eligibility,
            recording,
        } => {
            let kind = tables.kind(terms, fields, eligibility);
            match (request_id, recording) {
                (None, Recording::Record) => {}
                (None, Recording::DryRun | Recording::Stranger) => items.signed(LOOK),
                (Some(_), Recording::Record) => items.signed(RESERVE_WITH_ID),
                (Some(_), Recording::DryRun | Recording::Stranger) => items.signed(LOOK_WITH_ID),
            }
            items.number(kind as u64);
            items.number(fields.tokens.get());
            request_id.as_ref()
        }
        Operation::Settle { request_id, tokens } => {
            items.signed(SETTLE);
            items.number(tokens.get());
            Some(request_id)
        }
        Operation::Release { request_id } => {
            items.signed(RELEASE);
            Some(request_id)
        }
    }
}

/// What Reserves ask for, each kind once. Places are counted from 1, as in Lua.
#[derive(Default)]
struct Tables<'b> {
    kinds: Vec<Kind>,
    fields: Vec<String>,
    known_kinds: HashMap<(Target, Workload, usize), usize>,
    known_fields: HashMap<(&'b ProjectId, &'b ModelName), usize>,
    /// The last one: a gateway's requests come in runs of one kind.
    last: Option<(&'b RequestFields, &'b Eligibility, usize)>,
}

struct Kind {
    target: Target,
    workload: char,
    field: usize,
}

/// A pool, by its place in the terms, or the letter of the reason for being billed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Target {
    Pool(usize),
    Billed(char),
}

impl<'b> Tables<'b> {
    fn kind(
        &mut self,
        terms: &Terms,
        fields: &'b RequestFields,
        eligibility: &'b Eligibility,
    ) -> usize {
        if let Some((last, last_eligibility, kind)) = self.last
            && (&last.project, &last.model) == (&fields.project, &fields.model)
            && (last.workload, last_eligibility) == (fields.workload, eligibility)
        {
            return kind;
        }
        let target = match eligibility {
            Eligibility::Ineligible(reason) => Target::Billed(letter(Verdict::Billed(*reason))),
            Eligibility::Eligible(pool) => {
                let at = terms.allowances.iter().position(|(name, _)| name == pool);
                Target::Pool(1 + at.expect("an eligible request's pool is one of its terms'"))
            }
        };
        let RequestFields {
            project,
            model,
            workload,
            ..
        } = fields;
        let field = *self
            .known_fields
            .entry((project, model))
            .or_insert_with(|| {
                self.fields.push(keys::row_field(project, model));
                self.fields.len()
            });
        let kind = *self
            .known_kinds
            .entry((target, *workload, field))
            .or_insert_with(|| {
                let workload = workload_letter(*workload);
                self.kinds.push(Kind {
                    target,
                    workload,
                    field,
                });
                self.kinds.len()
            });
        self.last = Some((fields, eligibility, kind));
        kind
    }
}

/// A MessagePack array that grows.
#[derive(Default)]
struct Array {
    length: u32,
    elements: Vec<u8>,
}

const VEC: &str = "a Vec takes every byte";

impl Array {
    fn with_room(bytes: usize) -> Self {
        Self {
            length: 0,
            elements: Vec::with_capacity(bytes),
        }
    }

    fn number(&mut self, number: u64) {
        self.length += 1;
        rmp::encode::write_uint(&mut self.elements, number).expect(VEC);
    }

    fn signed(&mut self, number: i64) {
        self.length += 1;
        rmp::encode::write_sint(&mut self.elements, number).expect(VEC);
    }

    fn text(&mut self, text: &str) {
        self.length += 1;
        rmp::encode::write_str(&mut self.elements, text).expect(VEC);
    }

    fn flag(&mut self, flag: bool) {
        self.length += 1;
        rmp::encode::write_bool(&mut self.elements, flag).expect(VEC);
    }

    fn append_to(self, bytes: &mut Vec<u8>) {
        rmp::encode::write_array_len(bytes, self.length).expect(VEC);
        bytes.extend(self.elements);
    }

    fn packed(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.elements.len() + 512);
        self.append_to(&mut bytes);
        bytes
    }
}
