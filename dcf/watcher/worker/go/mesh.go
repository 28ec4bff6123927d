package dcf

import (
	"context"
	"errors"
)

// MeshError says why a call to another function has failed.
type MeshError struct {
	// Code is the error's code, such as function_not_found.
	Code    string
	Message string
}

func (e *MeshError) Error() string { return e.Message }

// Call calls another function of the cluster and returns its answer.
//
// Hand it the context of the request, or one made of that: the call then ends with
// the request, has its deadline, and one that would come back to a function that
// waits for it is refused.
//
// The error is a *MeshError, or that of ctx where ctx has ended.
func Call(ctx context.Context, function string, input []byte) ([]byte, error) {
	w := running.Load()
	if w == nil {
		return nil, errors.New("dcf.Call: this process is no worker of DCF")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m := w.beginMesh(function, callOf(ctx))
	if err := w.sendMesh(ctx, m, input); err != nil {
		return nil, err
	}
	select {
	case <-m.done:
		return m.result()
	case <-ctx.Done():
		w.abandonMesh(m)
		return nil, ctx.Err()
	}
}
