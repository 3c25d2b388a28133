//! The keys and arguments of the script that decides: a batch as MessagePack, which Redis' Lua unpacks in C.
//!
//! What many operations of a batch have in common is said once: the kinds of Reserves (pool, workload,
//! project, model) and the usage rows are tables, and an item names their places in them.

use std::collections::{HashMap, HashSet};

use super::{
    keys::{self, OrgKeys},
    memory::Remembered,
};
use crate::{
    domain::{
        Eligibility, ModelName, Overflow, PoolName, ProjectId, RequestFields, RequestId, Verdict,
        Workload,
    },
    store::{
        Batch, Operation, Recording,
        codes::{verdict_code, workload_code},
    },
};

/// The items that are no plain Reserve: the script, "items".
const RESERVE_WITH_ID: i64 = -1;
const LOOK_WITH_ID: i64 = -2;
const LOOK: i64 = -3;
const SETTLE: i64 = -4;
const RELEASE: i64 = -5;
const KIND: i64 = -6;

/// A batch as the script takes it.
pub(super) struct Packed {
    /// Its keys, in the script's order.
    pub(super) keys: Vec<String>,
    pub(super) argument: Vec<u8>,
    /// The pools that it names, in the script's order, and the turn that is remembered of each.
    pub(super) pools: Vec<(PoolName, u64)>,
    /// Whether it is about any reservation.
    pub(super) has_ids: bool,
}

/// What the script has to be told besides a batch.
#[derive(Clone, Default)]
pub(super) struct Told {
    /// Pools that a reservation names, and the terms don't.
    pub(super) extra: Vec<PoolName>,
    /// Redis lost writes: it is told all that is remembered of the pools.
    pub(super) restores: bool,
    /// Every pool that is remembered is looked at, whatever the operations are.
    pub(super) verifies: bool,
}

/// Packs a batch. Its keys stand behind `keys_before` others.
pub(super) fn pack<'b>(
    batch: &'b Batch,
    told: &'b Told,
    remembered: &'b [Remembered],
    prefix: &str,
    keys_before: usize,
) -> Packed {
    let terms = &*batch.terms;
    let mut tables = Tables {
        told_kind: 1,
        ..Tables::default()
    };
    let mut ids = Vec::new();
    let mut items = Values::with_room(batch.operations.len() * 8);
    for operation in &batch.operations {
        ids.extend(push_item(&mut items, &mut tables, operation));
    }
    if told.verifies {
        for known in remembered {
            tables.look_at(&known.pool);
        }
    }
    let has_ids = !ids.is_empty();
    if has_ids {
        // Any of them may be a reservation's.
        for pool in terms
            .allowances
            .iter()
            .map(|(pool, _)| pool)
            .chain(&told.extra)
        {
            tables.pool(pool);
        }
    }
    let org_keys = OrgKeys::new(prefix, &batch.org, batch.day);
    let mut keys = vec![org_keys.usage()];
    let [mut pools, mut fields, mut kinds] = <[Values; 3]>::default();
    let mut named = Vec::with_capacity(tables.pools.len());
    for pool in &tables.pools {
        let name = keys::encode(pool.as_str());
        keys.push(org_keys.pool(&name));
        pools.text(&name);
        pools.number(terms.of_pool(pool).allowance.get());
        let known = remembered.iter().find(|known| known.pool == **pool);
        named.push(((*pool).clone(), known.map_or(0, |known| known.turn)));
        match known {
            Some(known) if told.restores => pools.bytes(&known.record),
            Some(known) => pools.number(known.turn),
            None => pools.number(0),
        }
    }
    for field in &tables.fields {
        fields.text(field);
    }
    for kind in &tables.kinds {
        kind.push(&mut kinds);
    }
    keys.push(org_keys.requests());
    if has_ids {
        let yesterday = OrgKeys::new(prefix, &batch.org, batch.day.yesterday());
        keys.extend([yesterday.usage(), yesterday.requests()]);
    }
    let mut argument = Values::with_room(items.packed.len() + 40 * ids.len() + 256);
    argument.flag(terms.overflow == Overflow::CloseUntilReset);
    argument.number(keys_before as u64 + 1);
    argument.flag(recurs(&ids));
    for count in [
        tables.pools.len(),
        tables.fields.len(),
        tables.kinds.len(),
        ids.len(),
    ] {
        argument.number(count as u64);
    }
    for part in [pools, fields, kinds] {
        argument.packed.extend(part.packed);
    }
    for id in &ids {
        argument.text(id.as_str());
    }
    if has_ids || told.restores {
        argument.text("\u{1}");
    }
    if has_ids {
        for kind in &tables.kinds {
            argument.text(&tables.class_field(kind));
        }
        for pool in &tables.pools {
            argument.text(&keys::held_field(pool));
        }
    }
    argument.packed.extend(items.packed);
    Packed {
        keys,
        argument: argument.packed,
        pools: named,
        has_ids,
    }
}

/// Whether an id occurs more than once.
fn recurs(ids: &[&RequestId]) -> bool {
    let mut seen = HashSet::with_capacity(ids.len());
    !ids.iter().all(|id| seen.insert(id.as_str()))
}

/// Adds one item, and gives the id that it is about.
fn push_item<'b>(
    items: &mut Values,
    tables: &mut Tables<'b>,
    operation: &'b Operation,
) -> Option<&'b RequestId> {
    match operation {
        Operation::Reserve {
            request_id,
            fields,
            eligibility,
            is_listed,
            recording,
        } => {
            let kind = tables.kind(fields, eligibility, *is_listed);
            if kind != tables.told_kind {
                tables.told_kind = kind;
                items.code(KIND);
                items.number(kind as u64);
            }
            match (request_id, recording) {
                (None, Recording::Record) => {}
                (None, Recording::DryRun | Recording::Stranger) => items.code(LOOK),
                (Some(_), Recording::Record) => items.code(RESERVE_WITH_ID),
                (Some(_), Recording::DryRun | Recording::Stranger) => items.code(LOOK_WITH_ID),
            }
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
    /// The kind of the Reserves that the items end with.
    told_kind: usize,
    /// The last Reserve and its kind: a gateway's requests come in runs of one kind.
    last: Option<(&'b RequestFields, &'b Eligibility, usize)>,
}

/// What a Reserve asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    target: Target,
    workload: char,
    field: usize,
    is_listed: bool,
}

/// A pool by its place, or the letter of the reason for being billed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Target {
    Pool(usize),
    Billed(char),
}

impl Kind {
    fn push(self, kinds: &mut Values) {
        let mut utf8 = [0; 4];
        match self.target {
            Target::Pool(place) => kinds.number(place as u64),
            Target::Billed(letter) => kinds.text(letter.encode_utf8(&mut utf8)),
        }
        kinds.text(self.workload.encode_utf8(&mut utf8));
        kinds.number(self.field as u64);
        kinds.flag(self.is_listed);
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

    /// Has a pool read that no Reserve asks for: the script reads those of the kinds.
    fn look_at(&mut self, pool: &'b PoolName) {
        let target = Target::Pool(self.pool(pool));
        self.kinds.push(Kind {
            target,
            workload: workload_code(Workload::Inference),
            field: 0,
            is_listed: true,
        });
    }

    /// The field of a kind's class: pool, workload and row, which an id can't be.
    fn class_field(&self, kind: &Kind) -> String {
        let pool = match kind.target {
            Target::Pool(place) => keys::encode(self.pools[place - 1].as_str()),
            Target::Billed(_) => "".into(),
        };
        let (workload, field) = (kind.workload, &self.fields[kind.field - 1]);
        format!("\u{1}{pool}:{workload}:{field}")
    }

    fn kind(
        &mut self,
        fields: &'b RequestFields,
        eligibility: &'b Eligibility,
        is_listed: bool,
    ) -> usize {
        if let Some((last, last_eligibility, kind)) = self.last
            && (&last.project, &last.model) == (&fields.project, &fields.model)
            && (last.workload, last_eligibility) == (fields.workload, eligibility)
        {
            return kind;
        }
        let target = match eligibility {
            Eligibility::Ineligible(reason) => {
                Target::Billed(verdict_code(Verdict::Billed(*reason)))
            }
            Eligibility::Eligible(pool) => Target::Pool(self.pool(pool)),
        };
        let (project, model) = (&fields.project, &fields.model);
        let field = self.known_fields.entry((project, model));
        let field = *field.or_insert_with(|| {
            self.fields.push(keys::row_field(project, model));
            self.fields.len()
        });
        let workload = workload_code(fields.workload);
        let asked = Kind {
            target,
            workload,
            field,
            is_listed,
        };
        let kind = *self.known_kinds.entry(asked).or_insert_with(|| {
            self.kinds.push(asked);
            self.kinds.len()
        });
        self.last = Some((fields, eligibility, kind));
        kind
    }
}

/// MessagePack values, one behind the other.
#[derive(Default)]
struct Values {
    packed: Vec<u8>,
}

const VEC: &str = "a Vec takes every byte";

impl Values {
    fn with_room(bytes: usize) -> Self {
        let packed = Vec::with_capacity(bytes);
        Self { packed }
    }

    fn number(&mut self, number: u64) {
        rmp::encode::write_uint(&mut self.packed, number).expect(VEC);
    }

    fn code(&mut self, code: i64) {
        rmp::encode::write_sint(&mut self.packed, code).expect(VEC);
    }

    fn text(&mut self, text: &str) {
        rmp::encode::write_str(&mut self.packed, text).expect(VEC);
    }

    /// As a text, which is a string of bytes in Lua.
    fn bytes(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("what Redis holds of a pool is short");
        rmp::encode::write_str_len(&mut self.packed, length).expect(VEC);
        self.packed.extend(bytes);
    }

    fn flag(&mut self, flag: bool) {
        rmp::encode::write_bool(&mut self.packed, flag).expect(VEC);
    }
}
