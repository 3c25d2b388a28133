-- The rules of reservations: what an id allows. The twin of src/domain/reservation.rs: the same names in the same
-- order, the same cases.
--
-- KEYS, ARGV  none: nothing here reads or writes
-- Rules       docs/CONTRACT.md, "Reserve" 5, "Settle", "Release"

local FIELDS = '^(%l):([^:]*):(.+)$' -- workload, project, model

-- The codes of the fields in which a request differs: project, model, tokens, workload.
local function differences(reservation, fields, tokens)
  local its_workload, its_project, its_model = string.match(reservation.class.fields, FIELDS)
  local workload, project, model = string.match(fields, FIELDS)
  return (project ~= its_project and 'p' or '') .. (model ~= its_model and 'm' or '')
    .. (tokens ~= reservation.tokens and 't' or '') .. (workload ~= its_workload and 'w' or '')
end

-- Returns the first verdict; or nil, and the refusal.
local function reserve_again(reservation, fields, tokens)
  if reservation.class.fields ~= fields or reservation.tokens ~= tokens then
    return nil, 'd', differences(reservation, fields, tokens)
  elseif reservation.state == 'r' then
    return nil, 'e', 'released'
  end
  return reservation.verdict
end

-- Returns 'due' or 'replay'; or nil, and the refusal.
local function settle(reservation, actual, outside_program)
  if reservation.state == '' then
    return 'due'
  elseif reservation.state == 's' and (reservation.settled_as == RAN_OUTSIDE_PROGRAM) ~= outside_program then
    return nil, 'e', outside_program and 'within' or 'outside'
  elseif reservation.state == 's' and reservation.settled_tokens == actual then
    return 'replay'
  elseif reservation.state == 's' then
    return nil, 'a', reservation.settled_tokens
  end
  return nil, 'e', 'released'
end

-- Returns the same as settle.
local function release(reservation)
  if reservation.state == '' then
    return 'due'
  elseif reservation.state == 'r' then
    return 'replay'
  end
  return nil, 'e', 'settled'
end

