package dcf

// callLine is a queue of calls. Touched only with the worker's lock held.
type callLine struct {
	first, last *call
}

// push appends a call whose input is whole, or a stream.
func (l *callLine) push(c *call) {
	c.whole = true
	if l.first == nil {
		l.first = c
	} else {
		l.last.next = c
	}
	l.last = c
}

// pop returns the call that has waited longest and was not answered meanwhile, for
// it was cancelled; nil where there is none.
func (l *callLine) pop() *call {
	for l.first != nil {
		c := l.first
		l.first, c.next = c.next, nil
		if !c.answered {
			return c
		}
	}
	return nil
}

func (l *callLine) empty() bool { return l.first == nil }
