//! The keys and arguments of the script that decides: a batch as MessagePack, which Redis' Lua unpacks in C.
//!
//! What many operations of a batch have in common is said once: the kinds of Reserves (pool, workload,
//! project, model) and the usage rows are tables, and an item names their places in them.

use std::collections::HashMap;

use super::{
    keys::{self, OrgKeys},
    letters::{letter, workload_letter},
};
use crate::{
    domain::{
        Eligibility, ModelName, Overflow, PoolName, ProjectId, RequestFields, RequestId, Terms,
        Verdict,
    },
    store::{Batch, Operation, Recording},
};

/// The items that are no plain Reserve: the script, "items".
const RESERVE_WITH_ID: i64 = -1;
const LOOK_WITH_ID: i64 = -2;
const LOOK: i64 = -3;
const SETTLE: i64 = -4;
const RELEASE: i64 = -5;

/// A batch as the script takes it.
pub(super) struct Packed {
    /// Its keys, in the script's order.
    pub(super) keys: Vec<String>,
    pub(super) argument: Vec<u8>,
    /// Whether it is about any reservation.
    pub(super) has_ids: bool,
}

/// Packs a batch. Its keys stand behind `keys_before` others; `extra` are pools that a record named, and
/// the terms don't.
pub(super) fn pack(batch: &Batch, extra: &[PoolName], prefix: &str, keys_before: usize) -> Packed {
    let terms = &*batch.terms;
    let mut tables = Tables::default();
    let mut ids = Array::default();
    let mut items = Array::with_room(batch.operations.len() * 8);
    for operation in &batch.operations {
        if let Some(id) = push_item(&mut items, &mut tables, operation) {
            ids.text(id.as_str());
        }
    }
    let has_ids = ids.length > 0;
    if has_ids {
        // Any of them may be a reservation's.
        for pool in terms.allowances.iter().map(|(pool, _)| pool).chain(extra) {
            tables.pool(pool);
        }
    }
    let mut argument = Vec::with_capacity(items.elements.len() + ids.elements.len() + 256);
    write_bool(&mut argument, terms.overflow == Overflow::CloseUntilReset);
    write_number(&mut argument, keys_before as u64 + 1);
    let org_keys = OrgKeys::new(prefix, &batch.org, batch.day);
    let mut keys = vec![org_keys.usage()];
    let [mut named, mut fields, mut kinds] = <[Array; 3]>::default();
    name_pools(&mut named, &mut keys, &org_keys, &tables, terms);
    for field in &tables.fields {
        fields.text(field);
    }
    for kind in &tables.kinds {
        kind.push(&mut kinds);
    }
    if has_ids {
        keys.push(org_keys.requests());
        let yesterday = OrgKeys::new(prefix, &batch.org, batch.day.yesterday());
        keys.extend([yesterday.usage(), yesterday.requests()]);
    }
    for array in [named, fields, kinds, ids, items] {
        array.append_to(&mut argument);
    }
    Packed {
        keys,
        argument,
        has_ids,
    }
}

fn name_pools(
    named: &mut Array,
    keys: &mut Vec<String>,
    org_keys: &OrgKeys,
    tables: &Tables<'_>,
    terms: &Terms,
) {
    for pool in &tables.pools {
        let name = keys::encode(pool.as_str());
        keys.push(org_keys.pool(&name));
        named.text(&name);
        named.number(terms.of_pool(pool).allowance.get());
    }
}

/// Adds one item, and gives the id that it is about.
fn push_item<'b>(
    items: &mut Array,
    tables: &mut Tables<'b>,
    operation: &'b Operation,
) -> Option<&'b RequestId> {
    match operation {
        Operation::Reserve {
            request_id,
            fields,
            eligibility,
            recording,
        } => {
            let kind = tables.kind(fields, eligibility);
            match (request_id, recording) {
                (None, Recording::Record) => {}
                (None, Recording::DryRun | Recording::Stranger) => items.code(LOOK),
                (Some(_), Recording::Record) => items.code(RESERVE_WITH_ID),
                (Some(_), Recording::DryRun | Recording::Stranger) => items.code(LOOK_WITH_ID),
            }
            items.number(kind as u64);
            items.number(fields.tokens.get());
            request_id.as_ref()
        }
        Operation::Settle { request_id, tokens } => {
            items.code(SETTLE);
            items.number(tokens.get());
            Some(request_id)
        }
        Operation::Release { request_id } => {
            items.code(RELEASE);
            Some(request_id)
        }
    }
}

/// What a batch is about, each once. Places are counted from 1, as in Lua.
#[derive(Default)]
struct Tables<'b> {
    pools: Vec<&'b PoolName>,
    fields: Vec<String>,
    kinds: Vec<Kind>,
    known_fields: HashMap<(&'b ProjectId, &'b ModelName), usize>,
    known_kinds: HashMap<Kind, usize>,
    /// The last Reserve and its kind: a gateway's requests come in runs of one kind.
    last: Option<(&'b RequestFields, &'b Eligibility, usize)>,
}

/// What a Reserve asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    target: Target,
    workload: char,
    field: usize,
}

/// A pool by its place, or the letter of the reason for being billed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Target {
    Pool(usize),
    Billed(char),
}

impl Kind {
    fn push(self, kinds: &mut Array) {
        let mut utf8 = [0; 4];
        match self.target {
            Target::Pool(place) => kinds.number(place as u64),
            Target::Billed(letter) => kinds.text(letter.encode_utf8(&mut utf8)),
        }
        kinds.text(self.workload.encode_utf8(&mut utf8));
        kinds.number(self.field as u64);
    }
}

impl<'b> Tables<'b> {
    /// The place of a pool. There are few, so they are looked through.
    fn pool(&mut self, pool: &'b PoolName) -> usize {
        let known = self.pools.iter().position(|known| *known == pool);
        1 + known.unwrap_or_else(|| {
            self.pools.push(pool);
            self.pools.len() - 1
        })
    }

    fn kind(&mut self, fields: &'b RequestFields, eligibility: &'b Eligibility) -> usize {
        if let Some((last, last_eligibility, kind)) = self.last
            && (&last.project, &last.model) == (&fields.project, &fields.model)
            && (last.workload, last_eligibility) == (fields.workload, eligibility)
        {
            return kind;
        }
        let target = match eligibility {
            Eligibility::Ineligible(reason) => Target::Billed(letter(Verdict::Billed(*reason))),
            Eligibility::Eligible(pool) => Target::Pool(self.pool(pool)),
        };
        let (project, model) = (&fields.project, &fields.model);
        let field = self.known_fields.entry((project, model));
        let field = *field.or_insert_with(|| {
            self.fields.push(keys::row_field(project, model));
            self.fields.len()
        });
        let workload = workload_letter(fields.workload);
        let asked = Kind {
            target,
            workload,
            field,
        };
        let kind = *self.known_kinds.entry(asked).or_insert_with(|| {
            self.kinds.push(asked);
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

impl Array {
    fn with_room(bytes: usize) -> Self {
        Self {
            length: 0,
            elements: Vec::with_capacity(bytes),
        }
    }

    fn number(&mut self, number: u64) {
        self.length += 1;
        write_number(&mut self.elements, number);
    }

    fn code(&mut self, code: i64) {
        self.length += 1;
        rmp::encode::write_sint(&mut self.elements, code).expect(VEC);
    }

    fn text(&mut self, text: &str) {
        self.length += 1;
        rmp::encode::write_str(&mut self.elements, text).expect(VEC);
    }

    fn append_to(self, bytes: &mut Vec<u8>) {
        rmp::encode::write_array_len(bytes, self.length).expect(VEC);
        bytes.extend(self.elements);
    }
}

const VEC: &str = "a Vec takes every byte";

fn write_number(bytes: &mut Vec<u8>, number: u64) {
    rmp::encode::write_uint(bytes, number).expect(VEC);
}

fn write_bool(bytes: &mut Vec<u8>, flag: bool) {
    rmp::encode::write_bool(bytes, flag).expect(VEC);
}
