-- What is needed where Redis has lost writes that it acknowledged (src/store/redis/recovery/): the replica sends
-- its snapshots of the pools, and they are merged into what Redis has left.
--
-- KEYS, ARGV  none: pools.lua reads the records, reservations.lua the last class
-- Rules       docs/DURABILITY.md, "When Redis forgets"

-- How many values a component of a record has: replica, seq, and four counters.
local COMPONENT = 6

-- Merges a snapshot into a record: per replica, the component with the higher seq wins. Gives true if anything
-- was newer there, else nil.
local function merge(record, snapshot)
  local other, is_newer = { cmsgpack.unpack(snapshot) }, nil
  if other[1] and not record[1] then
    record[1], is_newer = true, true
  end
  for from = 2, #other, COMPONENT do
    local at = 2
    while at <= #record and record[at] ~= other[from] do
      at = at + COMPONENT
    end
    if at > #record or other[from + 1] > record[at + 1] then
      is_newer = true
      for value = 0, COMPONENT - 1 do
        record[at + value] = other[from + value]
      end
    end
  end
  return is_newer
end

-- Redis may have lost what settled or released the reservations that it still has, while the merged record counts
-- it. What these took back must not be taken back twice: from here on the reservations of the classes that there
-- are lower `used` no more, and later ones get classes of their own.
local function mark_recovery(batch)
  local reservations = batch.reservations
  for _, pool in pairs(batch.pools) do
    if pool[CHANGED] and reservations.last_class_id > 0 then
      reservations.recovered_before, reservations.is_recovery_new = reservations.last_class_id, true
      reservations.class_ids = {}
    end
  end
end

-- Whether Redis may have lost what became of today's reservations of a class.
local function predates_recovery(reservations, class_id)
  local recovered_before = reservations.recovered_before
  return recovered_before and class_id and tonumber(class_id) <= recovered_before
end

