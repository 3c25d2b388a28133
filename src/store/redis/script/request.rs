//! Encodes the keys and arguments of the script: a batch is MessagePack, which Redis' Lua unpacks in C.
//!
//! Values that operations share are sent once (dictionary encoding): the classes of Reserves (pool, workload,
//! project, model) and the usage rows. An operation has their numbers.

use std::collections::{HashMap, HashSet};

use super::keys::{self, OrgKeys};
use crate::{
    domain::{Eligibility, ModelName, Overflow, PoolName, ProjectId, RequestFields, Verdict},
    store::{
        Batch, Operation, Recording,
        codes::{verdict_code, workload_code},
        redis::recovery::snapshots::PoolSnapshot,
    },
};

/// Codes that begin an operation, named as in call.lua. A recorded Reserve without an id has none.
const RESERVE_WITH_ID: i64 = -1;
const DRY_RUN_WITH_ID: i64 = -2;
const DRY_RUN: i64 = -3;
const SETTLE: i64 = -4;
const RELEASE: i64 = -5;
const SET_CLASS: i64 = -6;

/// The number of values in a batch's header.
const HEADER: usize = 10;

/// The argument of a batch: a header, then these sections in this order, with the number of values of an item.
/// The twin of the layout in call.lua.
#[derive(Default)]
struct BatchArgument {
    pools: ArgumentSection<3>,
    rows: ArgumentSection<1>,
    classes: ArgumentSection<3>,
    ids: ArgumentSection<1>,
    lookups: ArgumentSection<1>,
    operations: ArgumentSection<1>,
}

/// Consecutive MessagePack values.
#[derive(Default)]
struct ArgumentSection<const WIDTH: usize> {
    values: usize,
    packed: Vec<u8>,
}

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
    /// Every pool with a snapshot is read.
    pub(crate) audits: bool,
}

impl ScriptCall {
    /// Adds a batch.
    pub(crate) fn add(
        &mut self,
        batch: &Batch,
        options: &BatchOptions,
        snapshots: &[PoolSnapshot],
        key_prefix: &str,
    ) {
        let terms = &*batch.terms;
        let mut argument = BatchArgument::default();
        let mut dictionary = Dictionary::default();
        let mut ids = HashSet::new();
        for operation in &batch.operations {
            argument.push_operation(&mut dictionary, operation);
            ids.extend(operation.request_id());
        }
        if options.audits {
            for snapshot in snapshots {
                dictionary.pool(&snapshot.pool);
            }
        }
        let has_ids = !ids.is_empty();
        if has_ids {
            // A reservation may be in any of them.
            let known = terms.allowances.iter().map(|(pool, _)| pool);
            for pool in known.chain(&options.extra_pools) {
                dictionary.pool(pool);
            }
        }

        let org_keys = OrgKeys::new(key_prefix, &batch.org, batch.day);
        let first_key = self.keys.len() as u64 + 1;
        self.keys.extend([org_keys.usage(), org_keys.requests()]);
        let mut pools = Vec::with_capacity(dictionary.pools.len());
        for pool in &dictionary.pools {
            let name = keys::encode(pool.as_str());
            self.keys.push(org_keys.pool(&name));
            let snapshot = snapshots.iter().find(|snapshot| snapshot.pool == **pool);
            let seq = snapshot.map_or(0, |snapshot| snapshot.seq);
            argument.pools.text(&name);
            argument.pools.number(terms.of_pool(pool).allowance.get());
            match snapshot {
                Some(snapshot) if options.sends_snapshots => argument.pools.bytes(&snapshot.record),
                _ => argument.pools.number(seq),
            }
            pools.push(((*pool).clone(), seq));
        }
        if has_ids {
            let yesterday = OrgKeys::new(key_prefix, &batch.org, batch.day.yesterday());
            self.keys.extend([yesterday.usage(), yesterday.requests()]);
        }
        dictionary.push(&mut argument);
        if has_ids || options.sends_snapshots {
            dictionary.push_lookups(&mut argument.lookups);
        }

        let mut header = ArgumentSection::<HEADER>::default();
        header.flag(terms.overflow == Overflow::CloseUntilReset);
        header.number(first_key);
        header.flag(options.sends_snapshots);
        header.flag(options.audits);
        header.flag(ids.len() < argument.ids.items());
        self.arguments.push(argument.pack(header));
        self.pools.push(pools);
    }
}

impl BatchArgument {
    fn push_operation<'b>(&mut self, dictionary: &mut Dictionary<'b>, operation: &'b Operation) {
        let operations = &mut self.operations;
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
                    operations.code(SET_CLASS);
                    operations.number(class as u64);
                }
                match (request_id, recording) {
                    (None, Recording::Record) => {}
                    (None, Recording::DryRun | Recording::Stranger) => operations.code(DRY_RUN),
                    (Some(_), Recording::Record) => operations.code(RESERVE_WITH_ID),
                    (Some(_), Recording::DryRun | Recording::Stranger) => {
                        operations.code(DRY_RUN_WITH_ID);
                    }
                }
                operations.number(fields.tokens.get());
            }
            Operation::Settle { tokens, .. } => {
                operations.code(SETTLE);
                operations.number(tokens.get());
            }
            Operation::Release { .. } => operations.code(RELEASE),
        }
        if let Some(id) = operation.request_id() {
            self.ids.text(id.as_str());
        }
    }

    fn pack(self, mut header: ArgumentSection<HEADER>) -> Vec<u8> {
        let Self {
            pools,
            rows,
            classes,
            ids,
            lookups,
            operations,
        } = self;
        for items in [
            pools.items(),
            rows.items(),
            classes.items(),
            ids.items(),
            lookups.items(),
        ] {
            header.number(items as u64);
        }
        let mut packed = header.packed;
        for section in [
            pools.packed,
            rows.packed,
            classes.packed,
            ids.packed,
            lookups.packed,
            operations.packed,
        ] {
            packed.extend(section);
        }
        packed
    }
}

/// The pools, rows and classes of a batch, each once. Numbers begin at 1, as in Lua.
#[derive(Default)]
struct Dictionary<'b> {
    pools: Vec<&'b PoolName>,
    rows: Vec<String>,
    classes: Vec<RequestClass>,
    row_numbers: HashMap<(&'b ProjectId, &'b ModelName), usize>,
    class_numbers: HashMap<RequestClass, usize>,
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
    /// The number of a pool. There are few, so a linear search is enough.
    fn pool(&mut self, pool: &'b PoolName) -> usize {
        let known = self.pools.iter().position(|known| *known == pool);
        1 + known.unwrap_or_else(|| {
            self.pools.push(pool);
            self.pools.len() - 1
        })
    }

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
        if let Some((last, last_eligibility, class)) = self.last
            && (&last.project, &last.model) == (&fields.project, &fields.model)
            && (last.workload, last_eligibility) == (fields.workload, eligibility)
        {
            return class;
        }
        let target = match eligibility {
            Eligibility::Ineligible(reason) => {
                Target::Billed(verdict_code(Verdict::Billed(*reason)))
            }
            Eligibility::Eligible(pool) => Target::Pool(self.pool(pool)),
        };
        let (project, model) = (&fields.project, &fields.model);
        let row = self.row_numbers.entry((project, model));
        let row = *row.or_insert_with(|| {
            self.rows.push(keys::row_field(project, model));
            self.rows.len()
        });
        let class = RequestClass {
            target,
            workload: workload_code(fields.workload),
            row,
            is_listed,
        };
        let number = *self.class_numbers.entry(class).or_insert_with(|| {
            self.classes.push(class);
            self.classes.len()
        });
        self.last = Some((fields, eligibility, number));
        number
    }

    /// Adds the rows and the classes.
    fn push(&self, argument: &mut BatchArgument) {
        for row in &self.rows {
            argument.rows.text(row);
        }
        for class in &self.classes {
            match class.target {
                Target::Pool(number) => argument.classes.number(number as u64),
                Target::Billed(code) => argument.classes.text(code.encode_utf8(&mut [0; 4])),
            }
            argument.classes.number(class.row as u64);
            argument.classes.flag(class.is_listed);
        }
    }

    /// Adds the fields that are read with the ids. No id equals one, since they begin with a control character.
    fn push_lookups(&self, lookups: &mut ArgumentSection<1>) {
        lookups.text("\u{1}");
        for class in &self.classes {
            let pool = match class.target {
                Target::Pool(number) => keys::encode(self.pools[number - 1].as_str()),
                Target::Billed(_) => "".into(),
            };
            let (workload, row) = (class.workload, &self.rows[class.row - 1]);
            lookups.text(&format!("\u{1}{pool}:{workload}:{row}"));
        }
        for pool in &self.pools {
            lookups.text(&keys::held_field(pool));
        }
    }
}

const VEC: &str = "a Vec takes every byte";

impl<const WIDTH: usize> ArgumentSection<WIDTH> {
    fn items(&self) -> usize {
        self.values / WIDTH
    }

    fn number(&mut self, number: u64) {
        self.values += 1;
        rmp::encode::write_uint(&mut self.packed, number).expect(VEC);
    }

    fn code(&mut self, code: i64) {
        self.values += 1;
        rmp::encode::write_sint(&mut self.packed, code).expect(VEC);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Packed as a string, which is bytes in Lua.
    fn bytes(&mut self, bytes: &[u8]) {
        self.values += 1;
        let length = u32::try_from(bytes.len()).expect("names and records are short");
        rmp::encode::write_str_len(&mut self.packed, length).expect(VEC);
        self.packed.extend(bytes);
    }

    fn flag(&mut self, flag: bool) {
        self.values += 1;
        rmp::encode::write_bool(&mut self.packed, flag).expect(VEC);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_widths_are_those_of_the_script() {
        fn width<const WIDTH: usize>(_: &ArgumentSection<WIDTH>) -> usize {
            WIDTH
        }
        let BatchArgument { pools, classes, .. } = BatchArgument::default();
        let script = include_str!("call.lua");
        for line in [
            format!(
                "local RESERVE, RESERVE_WITH_ID, DRY_RUN_WITH_ID, DRY_RUN, SETTLE, RELEASE, SET_CLASS = \
                 0, {RESERVE_WITH_ID}, {DRY_RUN_WITH_ID}, {DRY_RUN}, {SETTLE}, {RELEASE}, {SET_CLASS}\n"
            ),
            format!(
                "local HEADER, POOL, CLASS = {HEADER}, {}, {}\n",
                width(&pools),
                width(&classes)
            ),
        ] {
            assert!(script.contains(&line), "{line}");
        }
    }
}
