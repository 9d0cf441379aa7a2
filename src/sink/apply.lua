-- Applies the plans of several users, each behind its fence, in one atomic step.
--
-- KEYS: the fences of all plans, then for each plan the keys of its steps in their order.
-- ARGV[1], MessagePack: { mode ("stream" or "snapshot"), xmin, xmax, running ids (hex, comma-separated), whether keys
-- are only released (0 or 1), tombstone TTL in ms, layouts, plans }.
-- A layout is what plans have in common: { flags, number of KEYS besides the fence, number of further ARGV, steps }.
-- A plan: { number of its layout, new fence, the position the fence must have reached first (or ""), values of the
-- steps in their order ... }.
-- Further ARGV, for each plan: none where nothing is published; its event; or the event's text before and after its
-- type, where only the fence can tell it. Not in ARGV[1], because Lua hashes every byte of every string it makes.
--
-- A fence is text that compares as bytes: epoch(8) lsn(16) ordinal(8) xid(16) mark(1) watched values. Numbers are
-- fixed-width hex because Lua's lose digits above 2^53. Marks: . there is a row, t the user was deleted or nothing is
-- known of a row, l a row was lost. Flags: x keep the old xid, w merge the watched values, c some step asks what
-- changed.
--
-- Order: the writes of all plans, then every key that is to go, then the fences, then the publishes. Nothing is
-- published before its fence is stored, and no fence is stored before its keys are.
--
-- Out of memory nothing can be written, and what a plan would have written over is stale: released, its keys are
-- deleted and nothing else happens, unless the fence says that they are no older than the plan.
--
-- Reply, a line for each plan: a applied, u applied as user_update (both may be followed by the number of keys
-- of another type that were replaced, and by k where a guard kept keys that were to go), s skipped (followed by the
-- fence's epoch where that is a later one), d released, w not tried,
-- !CODE not done because of Redis' state,
-- ?CODE refused: the fence is written, and the user's keys are deleted; or they are right, and one channel took the
-- event which another refuses. ?LOST: Redis may have lost the row before what the fence tells of came.
local sub, find, match, unpack, pcall = string.sub, string.find, string.match, unpack, pcall
local call, try, KEYS, ARGV = redis.call, redis.pcall, KEYS, ARGV
local mode, xmin, xmax, running, releases, tombstone, layouts, plans = unpack(cmsgpack.unpack(ARGV[1]))
local UNKNOWN, CHUNK = string.rep('-', 16), 1000

-- By fence key what is stored there, or will be at the end of this call.
local fences = {}
-- By plan what its fence was; only of plans that leave a new one.
local before = {}
local doomed, dooms = {}, 0
-- What is to be published: by whom, where, what.
local publishers, channels, messages, publishes = {}, {}, {}, 0
-- Of the plan that is being applied.
local retyped, kept, fence
local out = {}

local function failed(reply)
  return type(reply) == 'table' and reply.err
end

local function unlink_doomed()
  for first = 1, dooms, CHUNK do
    call('UNLINK', unpack(doomed, first, math.min(first + CHUNK - 1, dooms)))
  end
  dooms = 0
end

local function doom(k, count)
  for i = 1, count do doomed[dooms + i] = KEYS[k + i] end
  dooms = dooms + count
end

local function replace_type(key, reply)
  if not find(reply.err, 'WRONGTYPE', 1, true) then error(reply) end
  call('UNLINK', key)
  retyped = retyped + 1
end

local function is_rowless(fence)
  local mark = sub(fence, 49, 49)
  return mark == 't' or mark == 'l'
end

local function write_fence(key, value)
  if not value then
    call('UNLINK', key)
  elseif is_rowless(value) then
    call('SET', key, value, 'PX', tombstone)
  else
    call('SET', key, value)
  end
end

local function read_watched(text)
  local values, count, at = {}, 0, 50
  while at <= #text do
    local colon = find(text, ':', at, true)
    local length = sub(text, at, colon - 1)
    count = count + 1
    if length == '-' then
      values[count], at = false, colon + 1
    else
      at = colon + 1 + tonumber(length)
      values[count] = sub(text, colon + 1, at - 1)
    end
  end
  return values, count
end

local function write_watched(values, count)
  local parts = {}
  for i = 1, count do
    local value = values[i]
    parts[i] = value and (#value .. ':' .. value) or '-:'
  end
  return table.concat(parts)
end

-- The new fence with what only the old one knows; and the bits of the watched values that changed.
local function merge(old, new, flags)
  if flags == '' and mode == 'stream' then return new, 0 end
  local position, xid, mark, watched = sub(new, 1, 32), sub(new, 33, 48), sub(new, 49, 49), sub(new, 50)
  if find(flags, 'x', 1, true) then
    if old then xid = sub(old, 33, 48) end
    -- Completed rows alone: nobody knows the user, and no event would ever take the fence away.
    if mode == 'stream' and (not old or is_rowless(old)) then mark = old and sub(old, 49, 49) or 't' end
  end
  if old and mode == 'snapshot' and sub(old, 1, 32) > position then position = sub(old, 1, 32) end
  local changed = 0
  -- A tombstone remembers nothing: its user is a new one.
  if not old or #old < 50 or is_rowless(old) then
    changed = -1
  elseif sub(old, 50) ~= watched then
    local former, known = read_watched(old)
    local after, count = read_watched(new)
    if known > count then count = known end
    for i = 1, count do
      if after[i] and after[i] ~= former[i] then
        changed = changed + 2 ^ (i - 1)
      elseif not after[i] then
        after[i] = former[i]
      end
    end
    if find(flags, 'w', 1, true) then watched = write_watched(after, count) end
  end
  return position .. xid .. mark .. watched, changed
end

local function stopped(old, new)
  if not old then return false end
  if mode == 'stream' then return sub(new, 1, 32) <= sub(old, 1, 32) end
  local epoch, present = sub(old, 1, 8), sub(new, 1, 8)
  if epoch ~= present then return epoch > present end
  local xid = sub(old, 33, 48)
  local seen = xid == UNKNOWN or xid < xmin or (xid < xmax and not find(running, xid, 1, true))
  return not seen
end

-- What becomes of the fence where it stops a row of the stream though nobody has written one: completed transactions
-- alone have left it, or a reading that found no row. Redis was emptied before they came, and another instance has begun
-- since. Nor is the row read before a snapshot sees its transaction, of which the fence tells from here on.
local function lost(old, new)
  local mark, xid = sub(old, 49, 49), sub(new, 33, 48)
  local is_row = mode == 'stream' and xid ~= UNKNOWN and sub(new, 49, 49) == '.' and sub(old, 1, 8) == sub(new, 1, 8)
  if not is_row or not (mark == 'l' or mark == 't' and sub(old, 33, 48) == UNKNOWN) then return nil end
  return sub(old, 1, 32) .. xid .. 'l' .. sub(old, 50)
end

-- Also where a snapshot could write: somebody further on has already.
local function is_behind(old, new)
  return old and sub(old, 1, 32) > sub(new, 1, 32)
end

-- `pairs` holds the names at its odd places; the values are put between them. A key that is not to be `made` is only
-- deleted where it is of another type: these fields alone would pass for the whole.
local function hash(key, pairs, removes, plan, at, made)
  local sets = #pairs / 2
  if sets > 0 then
    for i = 1, sets do pairs[2 * i] = plan[at + i] end
    local reply = try('HSET', key, unpack(pairs))
    if failed(reply) then
      replace_type(key, reply)
      if not made then return end
      call('HSET', key, unpack(pairs))
    end
  end
  -- Most hashes hold nothing else, and asking is a fraction of looking for each name.
  if #removes > 0 and (sets == 0 or call('HLEN', key) ~= sets) then
    local reply = try('HDEL', key, unpack(removes))
    if failed(reply) then replace_type(key, reply) end
  end
end

-- Whether a stored balance is there and another one; a key of another type holds none.
local function differs(key, field, balance)
  local stored
  if field == '' then stored = try('GET', key) else stored = try('HGET', key, field) end
  return stored and not failed(stored) and stored ~= balance
end

local function publish(number, channel, text)
  publishes = publishes + 1
  publishers[publishes], channels[publishes], messages[publishes] = number, channel, text
end

-- Deletes what the steps write and delete; of a hash that is only added to, the fields that would be written or removed:
-- nobody would write the rest again. `k` is the last of KEYS before the steps' own.
local function release(steps, k)
  for s = 1, #steps do
    local op, pairs = steps[s][1], steps[s][2]
    if op == 'E' then
      local names = { unpack(steps[s][3]) }
      for i = 1, #pairs, 2 do names[#names + 1] = pairs[i] end
      if #names > 0 and failed(try('HDEL', KEYS[k + 1], unpack(names))) then doom(k, 1) end
      k = k + 1
    elseif op == 'D' then
      doom(k, pairs)
      k = k + pairs
    elseif find('HTSB', op, 1, true) then
      doom(k, 1)
      k = k + 1
    end
  end
end

-- `k` and `a` are the last KEYS and ARGV before the plan's own.
local function apply(number, plan, layout, k, a)
  local old, new, after = fences[KEYS[number]], plan[2], plan[3]
  if releases == 1 then
    if stopped(old, new) or is_behind(old, new) then return 's' end
    release(layout[4], k)
    return 'd'
  end
  if after ~= '' and (not old or sub(old, 1, 32) < after) then return 'w' end
  if stopped(old, new) then
    if sub(old, 1, 8) > sub(new, 1, 8) then return 's' .. sub(old, 1, 8) end
    local left = lost(old, new)
    if not left then return 's' end
    fence = left
    doom(k, layout[2])
    return '?LOST'
  end
  local changed
  fence, changed = merge(old, new, layout[1])
  local event, result = ARGV[a + 1], 'a'
  if layout[3] == 2 then
    local update = bit.band(changed, 1) == 0
    if update then result = 'u' end
    event = event .. (update and 'user_update' or 'balance_change') .. ARGV[a + 2]
  end
  local steps, value, run, wrong = layout[4], 3, true, false
  for s = 1, #steps do
    local step = steps[s]
    local op = step[1]
    if op == 'H' or op == 'E' then
      k = k + 1
      if run and (op == 'H' or call('EXISTS', KEYS[k]) == 1) then
        hash(KEYS[k], step[2], step[3], plan, value, op == 'H')
      end
      value, run = value + #step[2] / 2, true
    elseif op == 'T' then
      k, value = k + 1, value + 1
      if run then call('SET', KEYS[k], plan[value], 'PX', step[2]) end
      run = true
    elseif op == 'S' then
      k, value = k + 1, value + 1
      if run then call('SET', KEYS[k], plan[value]) end
      run = true
    elseif op == 'D' then
      if run then doom(k, step[2]) else kept = true end
      k, run = k + step[2], true
    elseif op == 'U' then
      unlink_doomed()
    elseif op == 'V' then
      if run then publish(number, step[2], event) end
      run = true
    elseif op == 'P' then
      value = value + 1
      if run then publish(number, step[2], plan[value]) end
      run = true
    elseif op == 'G' then
      run = (step[2] == 0 or bit.band(changed, step[2]) ~= 0) and bit.band(changed, step[3]) == 0
      if step[4] == 1 then run = run and wrong end
    else
      k, value = k + 1, value + 1
      wrong = wrong or differs(KEYS[k], step[2], plan[value])
    end
  end
  if retyped > 0 then result = result .. retyped end
  return kept and result .. 'k' or result
end

local function code_of(reason)
  local text = type(reason) == 'table' and reason.err or tostring(reason)
  -- Up to Redis 7.0, and from 7.2 on.
  if find(text, 'The user executing the script', 1, true) then return 'NOPERM', true end
  if find(text, 'ACL failure in script: ', 1, true) then return 'NOPERM', true end
  if find(text, 'non local key', 1, true) then return 'TRYAGAIN', true end
  local code = match(text, '(%u%u%u+) ') or 'LUA'
  return code, code ~= 'ERR' and code ~= 'LUA' and code ~= 'WRONGTYPE'
end

local function apply_all()
  -- A key of another type reads as absent here, and is overwritten.
  local stored = call('MGET', unpack(KEYS, 1, #plans))
  for number = 1, #plans do fences[KEYS[number]] = stored[number] end
  local k, a, published = #plans, 1, {}
  for number = 1, #plans do
    local plan, key = plans[number], KEYS[number]
    local layout = layouts[plan[1]]
    published[number] = publishes
    retyped, kept, fence = 0, false, plan[2]
    local ok, result = pcall(apply, number, plan, layout, k, a)
    if not ok then
      publishes = published[number]
      local code, passes = code_of(result)
      result = (passes and '!' or '?') .. code
      if passes then
        out[number] = result
        -- What the user's plans before this one left to it is not written either.
        while number > 1 and KEYS[number - 1] == key do
          number = number - 1
          if before[number] ~= nil then
            out[number], before[number], publishes = result, nil, published[number]
          end
        end
        return
      end
      doom(k, layout[2])
    end
    out[number] = result
    if not find(result, '^[dsw]') then
      before[number] = fences[key]
      fences[key] = fence
    end
    k, a = k + layout[2], a + layout[3]
  end
end

local function write_fences()
  local pairs, count = {}, 0
  for number = 1, #plans do
    if before[number] ~= nil then
      local key = KEYS[number]
      local value = fences[key]
      if is_rowless(value) then
        write_fence(key, value)
      else
        pairs[count + 1], pairs[count + 2] = key, value
        count = count + 2
      end
    end
  end
  if count > 0 then call('MSET', unpack(pairs)) end
end

-- The plan whose publish failed, whether another of it went out before, and what to say of it.
local function publish_all()
  local told
  for i = 1, publishes do
    local reply = try('PUBLISH', channels[i], messages[i])
    if failed(reply) then return publishers[i], told == publishers[i], code_of(reply) end
    told = publishers[i]
  end
end

-- Takes back the fences of these plans, so that they are tried again.
local function take_back(first, code)
  for number = #plans, first, -1 do
    if before[number] ~= nil then
      pcall(write_fence, KEYS[number], before[number])
      out[number] = '!' .. code
    end
  end
end

local ok, reason = pcall(function()
  apply_all()
  unlink_doomed()
  write_fences()
end)
if not ok then
  local code = code_of(reason)
  take_back(1, code)
  out[1] = releases == 0 and out[1] or '!' .. code
else
  local number, partly, code = publish_all()
  -- What one channel has taken is not sent there again because another refuses it.
  if partly then out[number] = '?' .. code end
  if number then take_back(partly and number + 1 or number, code) end
end
for number = #out + 1, #plans do out[number] = 'w' end
return out
