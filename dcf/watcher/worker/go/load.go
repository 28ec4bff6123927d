package dcf

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// load runs the function's Init and tells the watcher how it went. It ends the
// process where the function cannot run.
func (w *worker) load() {
	handle, err := w.function.handler()
	if err != nil {
		w.failToLoad(err)
	}
	if w.function.Init != nil {
		w.init()
	}
	w.mu.Lock()
	w.handle = handle
	w.mu.Unlock()
	w.say(kindState, map[string]any{
		"state":         "ready",
		"slots":         w.slots,
		"bidirectional": w.function.Stream != nil,
		"streams":       handle == nil,
	})
}

func (w *worker) init() {
	returned := false
	defer func() {
		if !returned {
			w.failToLoad(fmt.Errorf("func Init failed: %w", caught(recover())))
		}
	}()
	err := w.function.Init()
	returned = true
	if err != nil {
		w.failToLoad(fmt.Errorf("func Init failed: %w", err))
	}
}

func (w *worker) failToLoad(err error) {
	text := err.Error()
	var panicked *panicError
	if errors.As(err, &panicked) {
		text += "\n\n" + panicked.stack
	}
	w.say(kindState, map[string]any{
		"state":     "failed",
		"cause":     strings.Join(strings.Fields(err.Error()), " "), // one line
		"traceback": text,
	})
	os.Exit(exitFailed)
}
