package login

import (
	"net/netip"
	"sync"
	"time"
)

// Limit counts wrong logins by address: Burst at once, then one each Refill. It never stands in the way of a right
// one, so that a colleague behind the same address is not locked out.
type Limit struct {
	Burst  int
	Refill time.Duration

	mutex sync.Mutex
	debts map[netip.Prefix]debt
	now   func() time.Time
	swept time.Time
}

type debt struct {
	count float64
	at    time.Time
}

// addresses that are remembered at most; beyond it the new ones count together
const most = 65536

// Wrong counts a wrong login and tells whether there were too many.
func (l *Limit) Wrong(address string) bool {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	now := time.Now()
	if l.now != nil {
		now = l.now()
	}
	if l.debts == nil {
		l.debts = map[netip.Prefix]debt{}
	}
	key := network(address)
	l.sweep(now)
	if _, known := l.debts[key]; !known && len(l.debts) >= most {
		key = netip.Prefix{}
	}
	owed := l.debts[key]
	owed.count = max(0, owed.count-float64(now.Sub(owed.at))/float64(l.Refill))
	owed.at = now
	limited := owed.count >= float64(l.Burst)
	if !limited {
		owed.count++
	}
	l.debts[key] = owed
	return limited
}

// sweep forgets, now and then, who owes nothing any more.
func (l *Limit) sweep(now time.Time) {
	paid := l.Refill * time.Duration(l.Burst+1)
	if now.Sub(l.swept) < paid {
		return
	}
	l.swept = now
	for key, owed := range l.debts {
		if now.Sub(owed.at) > paid {
			delete(l.debts, key)
		}
	}
}

// network is the address, or for IPv6 the /64 that one customer has.
func network(text string) netip.Prefix {
	address, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}
	}
	address = address.Unmap().WithZone("")
	bits := 64
	if address.Is4() {
		bits = 32
	}
	prefix, _ := address.Prefix(bits)
	return prefix
}
