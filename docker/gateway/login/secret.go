package login

import (
	"bytes"
	"os"
	"sync"
	"time"
)

// Secret is a file with a key that may change at any time.
type Secret struct {
	path string

	mutex  sync.Mutex
	looked time.Time
	value  []byte
}

// Read gives the key, nothing where there is none.
func (s *Secret) Read() []byte {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if time.Since(s.looked) < interval {
		return s.value
	}
	s.looked = time.Now()
	if text, err := os.ReadFile(s.path); err == nil {
		s.value = bytes.TrimSpace(text)
	}
	return s.value
}
