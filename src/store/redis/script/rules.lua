-- The rules: when a request is free, and what it counts. The twin of src/domain/pool.rs: the same names in the same
-- order, the same cases.
--
-- KEYS, ARGV  none: nothing here reads or writes
-- Rules       docs/CONTRACT.md, "Reserve" 3 and 5, "Settle", "Release", "What is counted where"

-- Counters are arrays: free tokens (a pool's `used`), billed tokens, free requests, billed requests, and
local CLOSED, CHANGED, IS_NEW = 5, 6, 7
-- A pool also has: its allowance, and what Reserves get of it, each without the external usage; by how much the batch
-- changes its held tokens.
local ALLOWANCE, RESERVABLE, HELD_CHANGE = 8, 9, 10

local is_closed, fits

local function judge_reserve(pool, share, closes, tokens)
  -- is_closed and fits, inlined: most of the script's work is this.
  if closes and pool[CLOSED] then
    return POOL_CLOSED
  elseif tokens > pool[RESERVABLE] - pool[1] then
    return ALLOWANCE_EXCEEDED
  elseif share and tokens > share[RESERVABLE] - share[1] then
    return SHARE_EXCEEDED
  end
  return FREE
end

-- `counted`: how many of the reservation's tokens are in `used`. All, but 0 after a recovery (recovery.lua).
local function judge_settle(pool, closes, verdict, reserved, counted, actual)
  if verdict == FREE and actual <= reserved then
    return FREE
  elseif verdict == FREE and fits(math.max(0, pool[1] - counted), pool[ALLOWANCE], actual) then
    return FREE
  elseif verdict == FREE then
    return ALLOWANCE_EXCEEDED
  elseif verdict == ALLOWANCE_EXCEEDED and not is_closed(pool, closes) and fits(pool[1], pool[ALLOWANCE], actual) then
    return FREE
  end
  return verdict
end

-- Counts a request in a pool, or in a usage row, which never closes.
local function count(counters, closes, verdict, tokens)
  if verdict == FREE then
    counters[1], counters[3] = counters[1] + tokens, counters[3] + 1
  else
    counters[2], counters[4] = counters[2] + tokens, counters[4] + 1
  end
  counters[CHANGED] = true
  if closes and verdict == ALLOWANCE_EXCEEDED then
    counters[CLOSED] = true
  end
end

-- Takes back what `count` counted. A closed pool stays closed.
local function take_back(counters, verdict, tokens)
  local side = verdict == FREE and 1 or 2
  counters[side] = math.max(0, counters[side] - tokens)
  counters[side + 2] = math.max(0, counters[side + 2] - 1)
  counters[CHANGED] = true
end

-- Only FREE tokens are held.
local function hold(pool, verdict, tokens)
  if verdict == FREE then
    pool[HELD_CHANGE] = pool[HELD_CHANGE] + tokens
  end
end

local function end_hold(pool, verdict, tokens)
  if verdict == FREE then
    pool[HELD_CHANGE] = pool[HELD_CHANGE] - tokens
  end
end

function is_closed(pool, closes)
  return closes and pool[CLOSED]
end

-- `used + tokens <= allowance`, as a difference, which is exact where the sum would pass 2^53.
function fits(used, allowance, tokens)
  return tokens <= allowance - used
end

local function judge_late_settle(verdict, reserved, actual)
  if verdict == FREE and actual > reserved then
    return DAY_CLOSED
  end
  return verdict
end
