module function

go 1.19

require dcf v0.0.0

// For your editor and `go test`. `dcf function build` links the module of the DCF that builds, whatever stands here.
replace dcf => ../.dcf/go
