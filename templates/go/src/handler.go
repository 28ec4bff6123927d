// Package function is what the function answers.
package function

import "dcf"

// Init runs once per replica, before the first call: load the model here.
func Init() error {
	return nil
}

// Handler is called once per request, by many goroutines at once (`concurrency` in config.yaml says how many).
// req.Input is the body, req.Context ends when nobody waits for the answer, req.Info says which function this is.
// An error is the caller's 500, one of dcf.InvalidInput its 400.
func Handler(req dcf.Request) (dcf.Reply, error) {
	return dcf.Bytes(req.Input), nil
}
