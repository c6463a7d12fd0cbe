package login

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// Users is a file of logins that may change at any time. A line is NAME:SALT:HASH, the hash that of SALT and the
// password with SHA-256: the passwords are generated with 128 random bits, a slow hash would only help an attacker
// to keep the machine busy. The last line is "end"; a file without it is being written, what was known stays.
type Users struct {
	path string

	mutex   sync.Mutex
	looked  time.Time
	text    []byte
	entries map[string]entry
}

type entry struct{ salt, hash []byte }

// how often the file is looked at, at most
const interval = 200 * time.Millisecond

// Check tells whether the password is that person's. Unknown names take as long as known ones.
func (u *Users) Check(name, password string) bool {
	found, known := u.current()[name]
	sum := sha256.Sum256(append(append([]byte{}, found.salt...), password...))
	equal := subtle.ConstantTimeCompare(sum[:], found.hash) == 1
	return known && equal
}

func (u *Users) current() map[string]entry {
	u.mutex.Lock()
	defer u.mutex.Unlock()
	if time.Since(u.looked) < interval {
		return u.entries
	}
	u.looked = time.Now()
	text, err := os.ReadFile(u.path)
	if err != nil || bytes.Equal(text, u.text) {
		return u.entries
	}
	entries, err := parse(string(text))
	if err == nil {
		u.entries, u.text = entries, text
	}
	return u.entries
}

func parse(text string) (map[string]entry, error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if lines[len(lines)-1] != "end" {
		return nil, fmt.Errorf("the file has no end")
	}
	entries := map[string]entry{}
	for number, line := range lines[:len(lines)-1] {
		fields := strings.Split(line, ":")
		if len(fields) != 3 || fields[0] == "" {
			return nil, fmt.Errorf("line %d is not NAME:SALT:HASH", number+1)
		}
		salt, err := hex.DecodeString(fields[1])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number+1, err)
		}
		hash, err := hex.DecodeString(fields[2])
		if err != nil || len(hash) != sha256.Size {
			return nil, fmt.Errorf("line %d has no SHA-256", number+1)
		}
		entries[fields[0]] = entry{salt, hash}
	}
	return entries, nil
}
