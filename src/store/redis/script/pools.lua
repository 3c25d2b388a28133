-- Pools: reads and writes their records. A share has a record like a pool's, which counts its project's FREE requests.
--
-- KEYS    the records, after usage and requests of today: of pools, then of shares
-- ARGV    the replica and its call; a batch's `pools`
-- Record  src/store/redis/mod.rs; the pool's counters are the sums of the replicas' components. A component is negative
--         where it took back what another counted. A seq comes from the number of the call, so a lost write and a
--         later one never have the same seq.

local MAX_COMPONENTS = 64

-- A pool also has: its key; its record as Redis has it; the position of the replica's own component in the record, or
-- nil; and after that position the four counters before the batch; the position of the external usage, or nil; from how
-- many free tokens on it reaches a further threshold; the peak before the batch and the external usage at the peak, if
-- the batch raises it.
local KEY, RECORD, OWN, BEFORE, EXTERNAL_AT, THRESHOLD, PEAK_BEFORE, PEAK_EXTERNAL = 11, 12, 13, 13, 18, 19, 20, 21

-- Reads the pool at a place among those that the batch names.
local function read_pool(batch, place)
  local snapshot = batch.args[HEADER + POOL * place]
  reading = KEYS[batch.args[FIRST_KEY] + 1 + place]
  local packed = redis.call('GET', reading)
  local record = packed and { cmsgpack.unpack(packed) } or { false }
  local is_recovered = type(snapshot) == 'string' and merge(record, snapshot)
  local last, own, external_at, external = #record, nil, nil, 0
  local a, b, c, d = 0, 0, 0, 0
  for at = 2, last, COMPONENT do
    local number = record[at]
    if number == EXTERNAL then
      external_at, external, batch.has_external = at, math.max(record[at + 4], record[at + 5]), true
    else
      if number == replica then
        own = at
      end
      a, b, c, d = a + record[at + 2], b + record[at + 3], c + record[at + 4], d + record[at + 5]
    end
  end
  local is_whole = a % 1 + b % 1 + c % 1 + d % 1 + external % 1 == 0 and last % COMPONENT == 1
    and type(record[1]) == 'boolean'
  if not is_whole or a > MAX or b > MAX or c > MAX or d > MAX then
    error('foreign counters')
  elseif is_recovered == false and (own and record[own + 1] or 0) < snapshot then
    batch.is_stale = true
  end
  -- A sum is negative if Redis lost what one replica counted, but not what another took back of it.
  return {
    a > 0 and a or 0, b > 0 and b or 0, c > 0 and c or 0, d > 0 and d or 0, record[1], is_recovered, not packed,
    batch.args[HEADER + POOL * place - 3] - external, batch.args[HEADER + POOL * place - 2] - external, 0, reading,
    record, own, a, b, c, d, external_at, batch.args[HEADER + POOL * place - 1] - external,
  }
end

-- Makes room: merges the components of the first two replicas that wrote today, which have mostly ended. If one still
-- runs, it gets a new component, and its audit restores the old one, which bills too much.
local function unite_first_components(pool)
  local record, external_at, first = pool[RECORD], pool[EXTERNAL_AT], 2
  while record[first] >= EXTERNAL do
    first = first + COMPONENT
  end
  local second = first + COMPONENT
  while record[second] >= EXTERNAL do
    second = second + COMPONENT
  end
  record[first + 1] = math.max(record[first + 1], record[second + 1]) + 1
  for value = 2, COMPONENT - 1 do
    record[first + value] = record[first + value] + record[second + value]
  end
  for _ = 1, COMPONENT do
    table.remove(record, second)
  end
  if external_at and external_at > second then
    pool[EXTERNAL_AT] = external_at - COMPONENT
  end
end

-- Adds a component without counts to the record of a pool. Returns its position.
local function add_component(pool, number)
  local record = pool[RECORD]
  local at = #record + 1
  record[at], record[at + 1], record[at + 2], record[at + 3], record[at + 4], record[at + 5] = number, 0, 0, 0, 0, 0
  return at
end

-- The position of the replica's own component, which is added if the record has none.
local function own_component(pool)
  if not pool[OWN] then
    if #pool[RECORD] > MAX_COMPONENTS * COMPONENT then
      unite_first_components(pool)
    end
    pool[OWN] = add_component(pool, replica)
  end
  return pool[OWN]
end

-- The position of a component that is no replica's, which is added if the record has none. The own one is added before:
-- a release that unites the first two whatever they are then keeps the number of a replica.
local function component_at(pool, number)
  own_component(pool)
  local record = pool[RECORD]
  for at = 2, #record, COMPONENT do
    if record[at] == number then
      return at
    end
  end
  return add_component(pool, number)
end

-- Raises the peak of a pool that counts as many tokens as a further threshold. To be called before less is counted, and
-- before the record is packed.
local function raise_peak(pool)
  if pool[1] >= pool[THRESHOLD] then
    local at, record, external_at = component_at(pool, PEAK), pool[RECORD], pool[EXTERNAL_AT]
    local external = external_at and record[external_at + 2] or 0
    local counted = math.min(MAX, pool[1] + external)
    if counted > record[at + 1] then
      pool[PEAK_BEFORE], pool[PEAK_EXTERNAL] = pool[PEAK_BEFORE] or record[at + 1], external
      record[at + 1] = counted
    end
  end
end

-- Reads the pools and shares of the batch's classes, or all.
local function read_pools(batch)
  local args, pools = batch.args, batch.pools
  if args[READS_ALL] then
    for place = 1, args[N_POOLS] + args[N_SHARES] do
      pools[place] = read_pool(batch, place)
    end
  end
  for at = batch.classes + 1, batch.ids, CLASS do
    local place, share = args[at], args[at + 2]
    if type(place) == 'number' and not pools[place] then
      pools[place] = read_pool(batch, place)
    end
    if share and share ~= true and not pools[share] then
      pools[share] = read_pool(batch, share)
    end
  end
end

-- Adds the batch's changes to the replica's own component, packs the record, and returns the seq. A batch without
-- operations only recovers, and raises no seq: a decision may run concurrently on a master that is being replaced,
-- and a higher seq here would hide that its seq is missing.
local function update_record(pool, has_operations)
  raise_peak(pool)
  local own, record = own_component(pool), pool[RECORD]
  if has_operations then
    -- The seqs of two calls are 1024 apart, which leaves room for the writes of a late call.
    record[1], record[own + 1] = pool[CLOSED], math.max(record[own + 1] + 1, call_number * 1024)
    for value = 1, 4 do
      record[own + 1 + value] = record[own + 1 + value] + (pool[value] - pool[BEFORE + value])
    end
  end
  pool[RECORD] = cmsgpack.pack(unpack(record))
  assert_allowed('SET', pool[KEY], '', 'EXAT', midnight + DAY)
  return record[own + 1]
end

local function write_pools(batch)
  local last = batch.args[N_POOLS]
  local first = last - batch.args[N_TOMORROW] + 1
  for place, pool in pairs(batch.pools) do
    if pool[CHANGED] and pool[IS_NEW] then
      local is_tomorrows = place >= first and place <= last
      redis.call('SET', pool[KEY], pool[RECORD], 'EXAT', midnight + (is_tomorrows and 2 * DAY or DAY))
    elseif pool[CHANGED] then
      redis.call('SET', pool[KEY], pool[RECORD], 'KEEPTTL')
    end
  end
end

