//! The arguments of `decide.lua`.

use redis::Cmd;

use super::{
    keys,
    letters::{letter, workload_letter},
};
use crate::{
    domain::{Eligibility, PoolName, RequestFields, Terms, Verdict},
    store::{Operation, Recording},
};

/// Adds the terms, and the extra pools that a record named, to the arguments of `decide.lua`.
pub(super) fn push_pools(command: &mut Cmd, terms: &Terms, extra: &[PoolName]) {
    command.arg(terms.allowances.len() + extra.len());
    for (pool, allowance) in &terms.allowances {
        command
            .arg(keys::encode(pool.as_str()).as_ref())
            .arg(allowance.get());
    }
    for pool in extra {
        command.arg(keys::encode(pool.as_str()).as_ref()).arg(0);
    }
}

/// Adds one item to the arguments of `decide.lua`.
pub(super) fn push_item(command: &mut Cmd, terms: &Terms, operation: &Operation) {
    match operation {
        Operation::Reserve {
            request_id,
            fields,
            eligibility,
            recording,
        } => {
            let RequestFields {
                project,
                model,
                tokens,
                workload,
            } = fields;
            command.arg(match recording {
                Recording::Record => "R",
                Recording::LookOnly => "L",
            });
            command.arg(request_id.as_ref().map_or("", |id| id.as_str()));
            match eligibility {
                Eligibility::Ineligible(reason) => {
                    command.arg(letter(Verdict::Billed(*reason)).to_string());
                }
                Eligibility::Eligible(pool) => {
                    let at = terms.allowances.iter().position(|(name, _)| name == pool);
                    let at = at.expect("an eligible request's pool is one of its terms'");
                    command.arg(at + 1);
                }
            }
            command
                .arg(tokens.get())
                .arg(workload_letter(*workload).to_string());
            command.arg(keys::row_field(project, model));
        }
        Operation::Settle { request_id, tokens } => {
            command.arg("S").arg(request_id.as_str()).arg(tokens.get());
        }
        Operation::Release { request_id } => {
            command.arg("V").arg(request_id.as_str());
        }
    }
}
