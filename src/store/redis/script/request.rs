//! Encodes the keys and arguments of the script: a batch is MessagePack, which Redis' Lua unpacks in C.
//!
//! Values that operations share are sent once (dictionary encoding): the classes of Reserves (pool, workload,
//! project, model) and the usage rows. An operation has their numbers.

use std::collections::HashSet;

use indexmap::{IndexMap, IndexSet};

use super::keys::{self, OrgKeys};
use crate::{
    domain::{
        Eligibility, ExternalSource, ModelName, Overflow, PoolName, ProjectId, RequestFields,
        RequestId, Verdict,
    },
    store::{
        Batch, Operation,
        codes::{verdict_code, workload_code},
        redis::recovery::snapshots::PoolSnapshot,
    },
};

/// Codes that begin an operation, named as in call.lua. A recorded Reserve without an id has none.
const RESERVE_WITH_ID: i64 = -1;
const DRY_RUN_WITH_ID: i64 = -2;
const DRY_RUN: i64 = -3;
const SETTLE: i64 = -4;
const SETTLE_OUTSIDE: i64 = -5;
const RELEASE: i64 = -6;
const SET_CLASS: i64 = -7;
const SET_EXTERNAL: i64 = -8;

/// One call of the script, with batches of one day.
#[derive(Default)]
pub(crate) struct ScriptCall {
    pub(crate) keys: Vec<String>,
    /// One for each batch.
    pub(crate) arguments: Vec<Vec<u8>>,
    /// For each batch: the pools that it names, in order, and the seq of each one's snapshot.
    pub(crate) pools: Vec<Vec<(PoolName, u64)>>,
}

/// How a batch is sent.
#[derive(Clone, Default)]
pub(crate) struct BatchOptions {
    /// Pools of reservations that the terms don't have.
    pub(crate) extra_pools: Vec<PoolName>,
    /// Redis lost writes: the snapshots are sent whole.
    pub(crate) sends_snapshots: bool,
}

impl ScriptCall {
    /// Adds a batch. Its argument has the layout in call.lua. A batch without operations reads every pool with a
    /// snapshot.
    pub(crate) fn add(
        &mut self,
        batch: &Batch,
        options: &BatchOptions,
        snapshots: &[PoolSnapshot],
        key_prefix: &str,
    ) {
        let terms = &*batch.terms;
        let mut dictionary = Dictionary::default();
        let mut operations = MsgPackWriter::default();
        for operation in &batch.operations {
            operations.operation(&mut dictionary, operation);
        }
        if batch.operations.is_empty() {
            dictionary.pools.extend(snapshots.iter().map(|it| &it.pool));
        }
        let ids = batch.operations.iter().filter_map(Operation::request_id);
        let ids: Vec<&RequestId> = ids.collect();
        if !ids.is_empty() {
            // A reservation may be in any of them.
            let known = terms.pools.iter().map(|(pool, _)| pool);
            dictionary.pools.extend(known.chain(&options.extra_pools));
        }
        let (n_pools, n_classes) = (dictionary.pools.len(), dictionary.classes.len());
        let has_lookups = !ids.is_empty() || options.sends_snapshots;
        let n_lookups = usize::from(has_lookups) * (1 + n_classes + n_pools);

        let mut argument = MsgPackWriter::default();
        argument.flag(terms.overflow == Overflow::CloseUntilReset);
        argument.number(self.keys.len() as u64 + 1);
        argument.flag(options.sends_snapshots);
        argument.flag(ids.iter().collect::<HashSet<_>>().len() < ids.len());
        argument.flag(reads_all(batch));
        let n_rows = dictionary.rows.len();
        for items in [n_pools, n_rows, n_classes, ids.len(), n_lookups] {
            argument.number(items as u64);
        }
        let org_keys = OrgKeys::new(key_prefix, &batch.org, batch.day);
        self.keys.extend([org_keys.usage(), org_keys.requests()]);
        let mut seqs = Vec::with_capacity(n_pools);
        for pool in &dictionary.pools {
            let name = keys::encode(pool.as_str());
            let snapshot = snapshots.iter().find(|snapshot| snapshot.pool == **pool);
            let seq = snapshot.map_or(0, |snapshot| snapshot.seq);
            argument.text(&name);
            let terms = terms.of_pool(pool);
            argument.number(terms.allowance.get());
            argument.number(terms.reservable().get());
            match snapshot {
                Some(snapshot) if options.sends_snapshots => argument.bytes(&snapshot.record),
                _ => argument.number(seq),
            }
            self.keys.push(org_keys.pool(&name));
            seqs.push(((*pool).clone(), seq));
        }
        if !ids.is_empty() {
            let yesterday = OrgKeys::new(key_prefix, &batch.org, batch.day.yesterday());
            self.keys.extend([yesterday.usage(), yesterday.requests()]);
        }
        argument.rows_and_classes(&dictionary);
        for id in ids {
            argument.text(id.as_str());
        }
        if has_lookups {
            argument.lookups(&dictionary);
        }
        argument.0.extend(operations.0);
        self.arguments.push(argument.0);
        self.pools.push(seqs);
    }
}

/// Whether a batch needs pools of which it has no class: an audit, and one that sets external usage.
fn reads_all(batch: &Batch) -> bool {
    let sets = |operation: &Operation| matches!(operation, Operation::SetExternalUsage { .. });
    batch.operations.is_empty() || batch.operations.iter().any(sets)
}

/// The pools, rows and classes of a batch, each once. Numbers begin at 1, as in Lua.
#[derive(Default)]
struct Dictionary<'b> {
    pools: IndexSet<&'b PoolName>,
    /// With the field of each.
    rows: IndexMap<(&'b ProjectId, &'b ModelName), String>,
    classes: IndexSet<RequestClass>,
    /// The last Reserve and its class: a gateway's requests come in runs of one class.
    last: Option<(&'b RequestFields, &'b Eligibility, usize)>,
}

/// What Reserves have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct RequestClass {
    target: Target,
    workload: char,
    row: usize,
    is_listed: bool,
}

/// The number of a pool, or the code of the reason for being billed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Target {
    Pool(usize),
    Billed(char),
}

impl<'b> Dictionary<'b> {
    /// The class of the last Reserve; before the first one, class 1, as in the script.
    fn last_class(&self) -> usize {
        self.last.map_or(1, |(_, _, class)| class)
    }

    fn class(
        &mut self,
        fields: &'b RequestFields,
        eligibility: &'b Eligibility,
        is_listed: bool,
    ) -> usize {
        let (project, model) = (&fields.project, &fields.model);
        if let Some((last, last_eligibility, class)) = self.last
            && (&last.project, &last.model) == (project, model)
            && (last.workload, last_eligibility) == (fields.workload, eligibility)
        {
            return class;
        }
        let target = match eligibility {
            Eligibility::Ineligible(reason) => {
                Target::Billed(verdict_code(Verdict::Billed(*reason)))
            }
            Eligibility::Eligible(pool) => Target::Pool(self.pools.insert_full(pool).0 + 1),
        };
        let row = self.rows.entry((project, model));
        let row_number = row.index() + 1;
        row.or_insert_with(|| keys::row_field(project, model));
        let class = RequestClass {
            target,
            workload: workload_code(fields.workload),
            row: row_number,
            is_listed,
        };
        let number = self.classes.insert_full(class).0 + 1;
        self.last = Some((fields, eligibility, number));
        number
    }
}

/// Writes consecutive MessagePack values.
#[derive(Default)]
struct MsgPackWriter(Vec<u8>);

const VEC: &str = "a Vec takes every byte";

impl MsgPackWriter {
    fn operation<'b>(&mut self, dictionary: &mut Dictionary<'b>, operation: &'b Operation) {
        match operation {
            Operation::Reserve {
                request_id,
                fields,
                eligibility,
                is_listed,
                recording,
            } => {
                let before = dictionary.last_class();
                let class = dictionary.class(fields, eligibility, *is_listed);
                if class != before {
                    self.code(SET_CLASS);
                    self.number(class as u64);
                }
                match (request_id, recording.writes()) {
                    (None, true) => {}
                    (None, false) => self.code(DRY_RUN),
                    (Some(_), true) => self.code(RESERVE_WITH_ID),
                    (Some(_), false) => self.code(DRY_RUN_WITH_ID),
                }
                self.number(fields.tokens.get());
            }
            Operation::Settle {
                tokens,
                outside_program,
                ..
            } => {
                self.code(if *outside_program {
                    SETTLE_OUTSIDE
                } else {
                    SETTLE
                });
                self.number(tokens.get());
            }
            Operation::Release { .. } => self.code(RELEASE),
            Operation::SetExternalUsage {
                pool,
                source,
                tokens,
            } => {
                self.code(SET_EXTERNAL);
                self.number(dictionary.pools.insert_full(pool).0 as u64 + 1);
                self.number(match source {
                    ExternalSource::Manual => 1,
                    ExternalSource::Reconciled => 2,
                });
                self.number(tokens.get());
            }
        }
    }

    fn rows_and_classes(&mut self, dictionary: &Dictionary<'_>) {
        for row in dictionary.rows.values() {
            self.text(row);
        }
        for class in &dictionary.classes {
            match class.target {
                Target::Pool(number) => self.number(number as u64),
                Target::Billed(code) => self.text(code.encode_utf8(&mut [0; 4])),
            }
            self.number(class.row as u64);
            self.flag(class.is_listed);
        }
    }

    /// The fields that are read with the ids. No id equals one, since they begin with a control character.
    fn lookups(&mut self, dictionary: &Dictionary<'_>) {
        self.text("\u{1}");
        for class in &dictionary.classes {
            let pool = match class.target {
                Target::Pool(number) => keys::encode(dictionary.pools[number - 1].as_str()),
                Target::Billed(_) => "".into(),
            };
            let (workload, row) = (class.workload, &dictionary.rows[class.row - 1]);
            self.text(&format!("\u{1}{pool}:{workload}:{row}"));
        }
        for pool in &dictionary.pools {
            self.text(&keys::held_field(pool));
        }
    }

    fn number(&mut self, number: u64) {
        rmp::encode::write_uint(&mut self.0, number).expect(VEC);
    }

    fn code(&mut self, code: i64) {
        rmp::encode::write_sint(&mut self.0, code).expect(VEC);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Packed as a string, which is bytes in Lua.
    fn bytes(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("names and records are short");
        rmp::encode::write_str_len(&mut self.0, length).expect(VEC);
        self.0.extend(bytes);
    }

    fn flag(&mut self, flag: bool) {
        rmp::encode::write_bool(&mut self.0, flag).expect(VEC);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_script() {
        let codes = format!(
            "local RESERVE, RESERVE_WITH_ID, DRY_RUN_WITH_ID, DRY_RUN = \
             0, {RESERVE_WITH_ID}, {DRY_RUN_WITH_ID}, {DRY_RUN}\n\
             local SETTLE, SETTLE_OUTSIDE, RELEASE, SET_CLASS, SET_EXTERNAL = \
             {SETTLE}, {SETTLE_OUTSIDE}, {RELEASE}, {SET_CLASS}, {SET_EXTERNAL}\n"
        );
        assert!(include_str!("call.lua").contains(&codes), "{codes}");
    }
}
