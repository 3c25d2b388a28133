-- Reads the records of pools.

-- The pools whose record is older than what the replica was told.
local lost

local PART, MOST_PARTS = 6, 64 -- the values of a replica's part of a record, and how many parts there are

-- Reads the pool in a place of those that the batch names.
local function read_pool(it, key, place)
  local told = it[NAMED + 3 * place]
  reading = KEYS[key + place]
  local held = redis.call('GET', reading)
  local record = held and { cmsgpack.unpack(held) } or { false }
  local restored = type(told) == 'string' and join(record, told)
  local last, mine = #record, nil
  local a, b, c, d = 0, 0, 0, 0
  for at = 2, last, PART do
    if record[at] == me then
      mine = at
    end
    a, b, c, d = a + record[at + 2], b + record[at + 3], c + record[at + 4], d + record[at + 5]
  end
  local whole = a % 1 + b % 1 + c % 1 + d % 1 == 0 and last % PART == 1 and type(record[1]) == 'boolean'
  if not whole or a > MAX or b > MAX or c > MAX or d > MAX then
    error('foreign counters')
  elseif restored == false and (mine and record[mine + 1] or 0) < told then
    lost = lost or {}
    lost[#lost + 1] = place
  end
  -- Below 0 where what one counted is lost, and what another took back of it is not.
  return {
    math.max(0, a), math.max(0, b), math.max(0, c), math.max(0, d), record[1], restored, not held,
    it[NAMED + 3 * place - 1], reading, record, mine, a, b, c, d, 0,
  }
end

-- Makes room: the first two that wrote today are mostly long gone. One that is not counts its part anew,
-- and the pool is short of it, which errs on the safe side.
local function unite_first_parts(record)
  record[3] = math.max(record[3], record[3 + PART]) + 1
  for value = 2, PART - 1 do
    record[2 + value] = record[2 + value] + record[2 + PART + value]
  end
  for _ = 1, PART do
    table.remove(record, 2 + PART)
  end
end

