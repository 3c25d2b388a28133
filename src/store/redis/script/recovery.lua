-- Recovers acknowledged writes that Redis lost (src/store/redis/recovery/): merges the replica's snapshots of the
-- pools into the records that Redis still has.
--
-- KEYS, ARGV  none: pools.lua reads the records, reservations.lua the last class
-- Rules       docs/DURABILITY.md, "When Redis forgets"

-- Merges a snapshot into a record: per replica, the component with the higher seq wins. Returns true if anything in
-- the snapshot was newer, else nil.
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

-- Redis may have lost the Settle or Release of reservations that it still has, while the merged record counts it.
-- Nothing may be taken back twice: reservations of the existing classes no longer lower `used`, and later ones get
-- new classes.
local function mark_recovery(batch)
  local reservations = batch.reservations
  for _, pool in pairs(batch.pools) do
    if pool[CHANGED] then
      reservations.recovered_before, reservations.is_recovery_new = reservations.last_class_id, true
      reservations.class_ids = {}
    end
  end
end

-- Whether Redis may have lost the Settle or Release of today's reservations of a class.
local function predates_recovery(reservations, class_id)
  local recovered_before = reservations.recovered_before
  return recovered_before and class_id and tonumber(class_id) <= recovered_before
end

