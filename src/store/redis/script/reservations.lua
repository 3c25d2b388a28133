-- What batches with ids need besides: the reservations that are known, and what becomes of them. The
-- decisions are those of src/domain/pool.rs and reservation.rs.

local DAY_CLOSED = 'D'
local RESERVATION = '^([FOZEPJWTMCXD])([sr]?)([FOZEPJWTMCXD]?)(%d+):(%d+)(:?)(%d*)$'
local CLASS = '^(%l):([^:]*):(.+)$' -- workload, project, model

-- What is known of the past, while a batch is judged:
--   batch           what is decided
--   request_keys, usage_keys   by day
--   texts, days     the known reservations, and of which day they are, by id
--   recurs          whether an id occurs more than once, and what becomes of it must be known too
--   class_of        by kind: the number of its class, where it has one
--   classes         by day and number: an array: its pool's name, the pool, workload and row, the row's
--                   counters; no pool where it is not eligible
--   last_class      the last number that is taken; new_classes: what is to be written of them
--   doubted         the last number before Redis lost writes; is_new_doubt: whether it is to be written
--   held            by place: the pool's tokens that are held
--   fields, rows    by day: the usage rows that only reservations are about
--   changes         by day: what is to be written: id and text in turn
--   unnamed         the pools that the caller has to name

-- The place of a pool among those that the caller names; nil where it does not.
local function place_of(batch, name)
  local it = batch.it
  for at = NAMED + 1, batch.fields, 3 do
    if it[at] == name then
      return (at - NAMED + 2) / 3
    end
  end
end

-- The last class, and the last one before Redis lost writes.
local function read_last_class(past, held)
  past.last_class = tonumber(held)
  if not past.last_class then
    local last, doubted = string.match(held, '^(%d+) (%d+)$')
    past.last_class, past.doubted = tonumber(last) or error('foreign classes'), tonumber(doubted)
  end
end

-- Whether Redis may have forgotten what became of today's reservations of a class.
local function is_doubted(past, class)
  return past.doubted and class and tonumber(class) <= past.doubted
end

-- Finds the reservations of the ids, today's, else yesterday's, and the kinds' classes.
local function find_reservations(past, batch)
  local it, first, count = batch.it, batch.ids + 1, batch.id_count
  local texts, days, missing = past.texts, past.days, nil
  reading = past.request_keys[TODAY]
  local held = redis.call('HMGET', reading, unpack(it, first, batch.items))
  read_last_class(past, held[count + 1] or '0')
  if count == 0 then
    return
  end
  local kinds, pools = it[COUNTS + 3], it[COUNTS + 1]
  for at = 1, kinds do
    local class = held[count + 1 + at]
    past.class_of[at] = not is_doubted(past, class) and class
  end
  for at = 1, pools do
    past.held[at] = held[count + 1 + kinds + at] or '0'
  end
  for at = 1, count do
    if held[at] then
      if not missing then
        missing = { unpack(it, first, first + at - 2) }
      end
      local id = it[first + at - 1]
      texts[id], days[id] = held[at], TODAY
    elseif missing then
      missing[#missing + 1] = it[first + at - 1]
    end
  end
  reading = past.request_keys[YESTERDAY]
  if not missing then
    held = redis.call('HMGET', reading, unpack(it, first, first + count - 1))
  elseif #missing > 0 then
    held = redis.call('HMGET', reading, unpack(missing))
  else
    return
  end
  for at = 1, #held do
    if held[at] then
      local id = missing and missing[at] or it[first + at - 1]
      texts[id], days[id] = held[at], YESTERDAY
    end
  end
end

-- Reads what the classes of the known reservations of a day are.
local function read_classes(past, day)
  local classes, numbers = past.classes[day], {}
  reading = past.request_keys[day]
  for id, text in pairs(past.texts) do
    if past.days[id] == day then
      local class = string.match(text, RESERVATION) and string.match(text, '(%d+):')
      if not class then
        error('a foreign reservation')
      elseif not classes[class] then
        classes[class] = true
        numbers[#numbers + 1] = '\1' .. class
      end
    end
  end
  if #numbers > 0 then
    local held = redis.call('HMGET', reading, unpack(numbers))
    for at = 1, #numbers do
      local name, same = string.match(held[at] or '', '^([^:]*):(%l:.+)$')
      if not name then
        error('a foreign class')
      end
      classes[string.sub(numbers[at], 2)] = { name, nil, same, nil }
    end
  end
  return classes
end

-- Gives the classes of a day their pools and rows.
local function read_what_they_count(past, day, batch)
  local classes, more = read_classes(past, day), {}
  local rows = {}
  if day == TODAY then
    for at = 1, #batch.rows do
      rows[batch.it[batch.fields + at]] = batch.rows[at]
    end
  end
  for _, class in pairs(classes) do
    local name, field = class[1], string.sub(class[3], 3)
    if rows[field] == nil then
      rows[field] = false
      more[#more + 1] = field
    end
    -- A replay tells the pool's present figures, of whatever day the reservation is.
    if name ~= '' then
      local place = place_of(batch, name)
      if place then
        batch.pools[place] = batch.pools[place] or read_pool(batch.it, batch.key, place)
        class[2] = batch.pools[place]
      else
        past.unnamed = past.unnamed or {}
        table.insert(past.unnamed, name)
      end
    end
  end
  if #more > 0 then
    past.fields[day], past.rows[day] = more, read_rows(past.usage_keys[day], more, 1, #more)
    for at = 1, #more do
      rows[more[at]] = past.rows[day][at]
    end
  end
  for _, class in pairs(classes) do
    class[4] = rows[string.sub(class[3], 3)]
  end
end

local function read_past(batch)
  local key, first = batch.key, batch.key + (batch.fields - NAMED) / 3 + 1
  local past = {
    batch = batch,
    request_keys = { KEYS[first], KEYS[first + 2] }, usage_keys = { KEYS[key], KEYS[first + 1] },
    texts = {}, days = {}, recurs = batch.it[3], class_of = {}, classes = { {}, {} },
    held = {}, fields = {}, rows = {}, changes = { {}, {} }, new_classes = {},
  }
  find_reservations(past, batch)
  if next(past.texts) then
    read_what_they_count(past, TODAY, batch)
    read_what_they_count(past, YESTERDAY, batch)
  end
  return past
end

-- Where a verdict counts: its tokens there in the counters, its requests two places on.
local function side_of(verdict)
  return verdict == FREE and 1 or 2
end

local function count(counters, side, tokens, sign)
  counters[side] = math.max(0, counters[side] + sign * tokens)
  counters[side + 2] = math.max(0, counters[side + 2] + sign)
  counters[CHANGED] = true
end

-- A doubted reservation's tokens may have been taken back before: none of what is used is taken for its.
local function judge_settle(closes, pool, day, held, reserved, actual, doubted)
  if day == YESTERDAY then
    return held == FREE and actual > reserved and DAY_CLOSED or held
  elseif not pool then
    return held
  elseif held == FREE then
    -- Not below 0, should the counters have been lost since: what is held is not granted on top.
    local others = doubted and pool[1] or math.max(0, pool[1] - reserved)
    local fits = actual <= reserved or actual <= pool[ALLOWANCE] - others
    return fits and FREE or EXCEEDED
  elseif held == EXCEEDED and not (closes and pool[IS_CLOSED]) and actual <= pool[ALLOWANCE] - pool[1] then
    return FREE
  end
  return held
end

-- HSET takes what stands last, should an id be in it twice.
local function write(past, day, id, text)
  local to = past.changes[day]
  local n = #to
  to[n + 1], to[n + 2] = id, text
  if past.recurs then
    past.texts[id], past.days[id] = text, day
  end
end

-- What an answer tells of a pool: its name, what is used, and whether it was closed; of a past day's
-- reservation no figures, unless it is a replayed Reserve.
local function figures(class, day)
  local pool = class[2]
  if pool and day == YESTERDAY then
    return class[1], false
  end
  return class[1], pool and pool[1] or 0, pool and pool[IS_CLOSED] or false
end

-- Each of these gives the answer's values.

-- Whoever tells a caller what counts has to remember it: a replay is a turn, which changes no counter.
local function take_turn(class, day)
  if day == TODAY and class[2] then
    class[2][CHANGED] = true
  end
end

-- The letters of the fields in which a request differs from the reservation of its id.
local function differences(class, text, reserved, tokens)
  local workload, project, model = string.match(class[3], CLASS)
  local its_workload, its_project, its_model = string.match(string.match(text, ':(.+)$'), CLASS)
  return (project ~= its_project and 'p' or '') .. (model ~= its_model and 'm' or '')
    .. (reserved ~= tokens and 't' or '') .. (workload ~= its_workload and 'w' or '')
end

local function reserve_again(past, id, text, tokens, writes)
  local day = past.days[id]
  local held, state, _, number, reserved = string.match(past.texts[id], RESERVATION)
  local class = past.classes[day][number]
  if tonumber(reserved) ~= tokens or class[3] ~= string.match(text, ':(.+)$') then
    return 'd', differences(class, text, tonumber(reserved), tokens)
  elseif state == 'r' then
    return 'e', 'released'
  end
  if writes then
    take_turn(class, day)
  end
  return 'r', held, figures(class, TODAY)
end

-- The row that counts a held reservation.
local function row_of(past, class, day, in_other)
  if in_other ~= ':' then
    return class[4]
  end
  load_row_functions()
  local batch = past.batch
  return other_row(batch.it, batch.key, batch.fields, batch.rows, past, day)
end

local function end_hold(class, day, held, reserved)
  local pool = class[2]
  if pool and day == TODAY and held == FREE then
    pool[HELD_CHANGE] = pool[HELD_CHANGE] - reserved
  end
end

local function settle(closes, past, id, actual)
  if not past.texts[id] then
    return 'e', 'unknown'
  end
  local day = past.days[id]
  local held, state, settled_as, number, reserved, in_other, settled = string.match(past.texts[id], RESERVATION)
  local class = past.classes[day][number]
  if state == 'r' then
    return 'e', 'released'
  elseif state == 's' then
    settled = tonumber(settled)
    if settled ~= actual then
      return 'a', settled
    end
    take_turn(class, day)
    return 's', settled_as, held, true, figures(class, day)
  end
  local row, pool = row_of(past, class, day, in_other), day == TODAY and class[2] or nil
  reserved = tonumber(reserved)
  local doubted = pool and held == FREE and is_doubted(past, number)
  local verdict = judge_settle(closes, pool, day, held, reserved, actual, doubted)
  local was, is = side_of(held), side_of(verdict)
  local taken_back = was == is and reserved or 0
  if row[is] > MAX - actual + taken_back or pool and pool[is] > MAX - actual + (doubted and 0 or taken_back) then
    return 'e', 'full'
  end
  count(row, was, reserved, -1)
  count(row, is, actual, 1)
  end_hold(class, day, held, reserved)
  if pool then
    if not doubted then
      count(pool, was, reserved, -1)
    end
    if not (doubted and is == was and actual <= reserved) then
      count(pool, is, actual, 1)
    end
    -- Whoever tells what it was settled as has to remember it, also where this changes no counter.
    pool[CHANGED] = true
    pool[IS_CLOSED] = pool[IS_CLOSED] or closes and verdict == EXCEEDED
  end
  write(past, day, id, string.format('%ss%s%s:%d:%d', held, verdict, number, reserved, actual))
  return 's', verdict, held, false, figures(class, day)
end

local function release(past, id)
  if not past.texts[id] then
    return 'e', 'unknown'
  end
  local day = past.days[id]
  local held, state, _, number, reserved, in_other = string.match(past.texts[id], RESERVATION)
  local class = past.classes[day][number]
  if state == 's' then
    return 'e', 'settled'
  end
  reserved = tonumber(reserved)
  if state == '' then
    count(row_of(past, class, day, in_other), side_of(held), reserved, -1)
    end_hold(class, day, held, reserved)
    local doubted = held == FREE and is_doubted(past, number)
    if day == TODAY and class[2] and not doubted then
      count(class[2], side_of(held), reserved, -1)
    end
    write(past, day, id, string.format('%sr%s:%d', held, number, reserved))
  end
  take_turn(class, day)
  return 'v', reserved, state == 'r', figures(class, day)
end

-- Gives a kind's class, whose field in the hash this is, a number.
local function new_class(past, kind, field)
  past.last_class = past.last_class + 1
  local class = string.format('%d', past.last_class)
  local to = past.new_classes
  local n = #to
  to[n + 1], to[n + 2], to[n + 3], to[n + 4] = field, class, '\1' .. class, string.sub(field, 2)
  past.class_of[kind] = class
  return class
end

-- Lets a new reservation be found again in this batch.
local function recur(past, id, text, class, field, pool, row)
  past.texts[id], past.days[id] = text, TODAY
  if not past.classes[TODAY][class] then
    local name, same = string.match(field, '^\1([^:]*):(.+)$')
    past.classes[TODAY][class] = { name, pool, same, row }
  end
end

-- What is held of pools after the batch.
local function change_held(past, pools)
  local to, batch = past.changes[TODAY], past.batch
  for place, pool in pairs(pools) do
    if pool[HELD_CHANGE] ~= 0 then
      local held = tonumber(past.held[place]) or error('foreign held tokens')
      local n = #to
      to[n + 1] = '\2' .. batch.it[NAMED + 3 * place - 2]
      to[n + 2] = string.format('%d', math.max(0, held + pool[HELD_CHANGE]))
    end
  end
end

-- What is to be written besides: key, changes and when it expires in turn.
local function changes_of_past(past, pools)
  change_held(past, pools)
  local writes, midnights = {}, { midnight + DAY, midnight }
  local function add(key, changes, expires_at)
    local n = #writes
    writes[n + 1], writes[n + 2], writes[n + 3] = key, changes, expires_at or false
  end
  for day = TODAY, YESTERDAY do
    if past.rows[day] then
      local key = past.usage_keys[day]
      local changes, expires_at = changes_of(past.rows[day], key, past.fields[day], 0, midnights[day] + retention)
      if changes then
        add(key, changes, expires_at)
      end
    end
    if #past.changes[day] > 0 then
      may_write_hash(past.request_keys[day])
      add(past.request_keys[day], past.changes[day])
    end
  end
  local classes = past.new_classes
  local n = #classes
  if n > 0 or past.is_new_doubt then
    -- So long that Redis keeps the hash as a table from the first id on, and not as a list that is
    -- searched from its begin.
    local last = string.format('%065d', past.last_class)
    classes[n + 1], classes[n + 2] = '\1', past.doubted and string.format('%s %d', last, past.doubted) or last
    may_write_hash(past.request_keys[TODAY], midnight + 2 * DAY)
    add(past.request_keys[TODAY], classes, midnight + 2 * DAY)
  end
  return writes
end

