-- Every slice of every deployed function, of one moment: uid, slice/measure, total, ...
-- KEYS: specs. ARGV: prefix of the count keys.
local found = {}
for _, stored in ipairs(redis.call('HVALS', KEYS[1])) do
  local uid = cjson.decode(stored).uid
  local slices = redis.call('HGETALL', ARGV[1] .. uid)
  for i = 1, #slices, 2 do
    found[#found + 1] = uid
    found[#found + 1] = slices[i]
    found[#found + 1] = slices[i + 1]
  end
end
return found
