package dcf

import (
	"context"
	"sync"
	"time"
)

// callContext is the context of one call. Unlike context.WithDeadline it costs
// nothing until it is used: no channel before Done, no timer before a channel.
type callContext struct {
	mu       sync.Mutex
	deadline time.Time // zero: none
	done     chan struct{}
	timer    *time.Timer
	err      error
}

func (c *callContext) Deadline() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deadline, !c.deadline.IsZero()
}

func (c *callContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		} else if !c.deadline.IsZero() {
			c.timer = time.AfterFunc(time.Until(c.deadline), c.expire)
		}
	}
	return c.done
}

func (c *callContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
		c.end(context.DeadlineExceeded)
	}
	return c.err
}

// cancel ends it: nobody waits any more, or the handler has returned.
func (c *callContext) cancel() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end(context.Canceled)
}

// dropDeadline lets the call take as long as it likes, unless it is over already.
func (c *callContext) dropDeadline() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = time.Time{}
	if c.timer != nil {
		c.timer.Stop()
	}
}

func (c *callContext) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.deadline.IsZero() { // not dropped while the timer fired
		c.end(context.DeadlineExceeded)
	}
}

// end is for holders of the lock.
func (c *callContext) end(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	if c.done != nil {
		close(c.done)
	}
	if c.timer != nil {
		c.timer.Stop()
	}
}
