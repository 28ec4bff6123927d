-- Every slice's report, of one moment: Redis' time, then slice, its time and JSON, ...
-- KEYS: set of slices. ARGV: prefix.
local now = redis.call('TIME')
local found = { string.format('%d.%06d', now[1], now[2]) }
for _, slice in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local text = redis.call('GET', ARGV[1] .. slice)
  if text then
    found[#found + 1] = slice
    found[#found + 1] = text
  end
end
return found
