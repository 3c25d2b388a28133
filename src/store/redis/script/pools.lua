-- Pools: reads their records, and writes them.
--
-- KEYS    the records of today, behind usage and requests of today
-- ARGV    3, 4: the replica and its call; a batch's `pools`
-- Record  MessagePack values: whether the pool is closed, and a component for each replica that wrote to it: its
--         number, the seq of its last write, and what it counted (free tokens, billed tokens, free requests,
--         billed requests), below 0 where it took back what another counted. The pool's counters are the sums.
--         A seq comes from the number of the call, so what Redis lost and what was written instead never have
--         the same.

local MAX_COMPONENTS = 64

-- Of a pool, besides its counters: its key; its record as Redis has it; where the replica's own component begins
-- in it, or nil; and behind that place the four counters before the batch.
local KEY, RECORD, OWN, BEFORE = 10, 11, 12, 12

-- Reads the pool at a place among those that the batch names.
local function read_pool(batch, place)
  local snapshot, replica = batch.args[HEADER + POOL * place], tonumber(ARGV[3])
  reading = KEYS[batch.args[FIRST_KEY] + 1 + place]
  local packed = redis.call('GET', reading)
  local record = packed and { cmsgpack.unpack(packed) } or { false }
  local is_recovered = type(snapshot) == 'string' and merge(record, snapshot)
  local last, own = #record, nil
  local a, b, c, d = 0, 0, 0, 0
  for at = 2, last, COMPONENT do
    if record[at] == replica then
      own = at
    end
    a, b, c, d = a + record[at + 2], b + record[at + 3], c + record[at + 4], d + record[at + 5]
  end
  local is_whole = a % 1 + b % 1 + c % 1 + d % 1 == 0 and last % COMPONENT == 1 and type(record[1]) == 'boolean'
  if not is_whole or a > MAX or b > MAX or c > MAX or d > MAX then
    error('foreign counters')
  elseif is_recovered == false and (own and record[own + 1] or 0) < snapshot then
    batch.is_stale = true
  end
  -- Below 0 where what one replica counted is lost, and what another took back of it is not.
  return {
    math.max(0, a), math.max(0, b), math.max(0, c), math.max(0, d), record[1], is_recovered, not packed,
    batch.args[HEADER + POOL * place - 1], 0, reading, record, own, a, b, c, d,
  }
end

-- Reads the pools of the batch's classes; or all of them, for an audit.
local function read_pools(batch)
  local args, pools = batch.args, batch.pools
  if args[READS_ALL] then
    for place = 1, args[N_POOLS] do
      pools[place] = read_pool(batch, place)
    end
  end
  for at = batch.classes + 1, batch.ids, CLASS do
    local place = args[at]
    if type(place) == 'number' and not pools[place] then
      pools[place] = read_pool(batch, place)
    end
  end
end

-- Makes room: the first two replicas that wrote today are mostly long gone, and share a component. One that is
-- not counts in a new one, and its audit finds the pool short of it, which bills too much.
local function unite_first_components(record)
  record[3] = math.max(record[3], record[3 + COMPONENT]) + 1
  for value = 2, COMPONENT - 1 do
    record[2 + value] = record[2 + value] + record[2 + COMPONENT + value]
  end
  for _ = 1, COMPONENT do
    table.remove(record, 2 + COMPONENT)
  end
end

-- Adds what the batch changed to the replica's own component, packs the record for its write, and gives the seq. A
-- batch without operations only recovers, and raises no seq: a decision may be under way beside it, at a master that
-- is being replaced, and a higher seq here would hide that this one's is missing.
local function update_record(pool, has_operations)
  local record, own = pool[RECORD], pool[OWN]
  if not own then
    if #record > MAX_COMPONENTS * COMPONENT then
      unite_first_components(record)
    end
    own = #record + 1
    record[own], record[own + 1], record[own + 2], record[own + 3] = tonumber(ARGV[3]), 0, 0, 0
    record[own + 4], record[own + 5] = 0, 0
  end
  if has_operations then
    -- Between two calls there is room for the writes of a call that comes late.
    record[1], record[own + 1] = pool[CLOSED], math.max(record[own + 1] + 1, tonumber(ARGV[4]) * 1024)
    for value = 1, 4 do
      record[own + 1 + value] = record[own + 1 + value] + (pool[value] - pool[BEFORE + value])
    end
  end
  pool[RECORD] = cmsgpack.pack(unpack(record))
  assert_allowed('SET', pool[KEY], '', 'EXAT', midnight + DAY)
  return record[own + 1]
end

local function write_pools(pools)
  for _, pool in pairs(pools) do
    if pool[CHANGED] and pool[IS_NEW] then
      redis.call('SET', pool[KEY], pool[RECORD], 'EXAT', midnight + DAY)
    elseif pool[CHANGED] then
      redis.call('SET', pool[KEY], pool[RECORD], 'KEEPTTL')
    end
  end
end

