package quota

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc/codes"
)

// State is what has become of a reservation, as this process knows it.
type State int

// The states.
const (
	Held State = iota
	Dispatched
	Settled
	Released
	Kept
	// Its Release was begun, and is not known to have counted.
	Releasing
)

// String returns the state's name.
func (s State) String() string {
	return [...]string{"HELD", "DISPATCHED", "SETTLED", "RELEASED", "KEPT", "RELEASING"}[s]
}

// Reservation is a reserved request, which Close ends.
type Reservation struct {
	// The decision of Reserve.
	Decision
	// Its id, which the client made.
	ID string
	// Its organization.
	Org string
	// The reserved tokens.
	Tokens uint64

	client *Client
	mutex  sync.Mutex
	state  State
}

// State returns what has become of it.
func (r *Reservation) State() State {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.state
}

// move changes the state, if it is one of these.
func (r *Reservation) move(to State, from ...State) bool {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for _, state := range from {
		if r.state == state {
			r.state = to
			return true
		}
	}
	return false
}

// Dispatched states that the request is about to be sent. From here on it may have run: it is not released by
// default. It fails once the reservation was released, settled or kept: the request must not be sent on it then.
func (r *Reservation) Dispatched() error {
	if r.move(Dispatched, Held, Dispatched) {
		return nil
	}
	message := fmt.Sprintf("reservation %s is %s: send no request on it", r.ID, r.State())
	return &Error{Code: codes.FailedPrecondition, Message: message}
}

// Keep states that the request may have run, with unknown use: its tokens stay counted until midnight.
func (r *Reservation) Keep() { r.move(Kept, Held, Dispatched, Releasing) }

// Settle records the tokens that the request really used. The same again is answered again, another amount is an
// error. It is carried to its end even if ctx is cancelled.
func (r *Reservation) Settle(ctx context.Context, tokens uint64) (Settlement, error) {
	return r.settle(ctx, tokens, false)
}

// SettleOutside records the tokens of a request that ran where nothing is shared, in another project or at another
// provider: it is billed, and what was held is given back.
func (r *Reservation) SettleOutside(ctx context.Context, tokens uint64) (Settlement, error) {
	return r.settle(ctx, tokens, true)
}

func (r *Reservation) settle(ctx context.Context, tokens uint64, outside bool) (Settlement, error) {
	// Who settles has dispatched.
	r.move(Dispatched, Held)
	settlement, err := r.client.Settle(context.WithoutCancel(ctx), r.Org, r.ID, tokens, outside)
	if err == nil {
		r.move(Settled, Dispatched, Kept, Releasing)
	}
	return settlement, err
}

// Release states that the request did not run, and takes back everything that it counted. It is carried to its end
// even if ctx is cancelled.
func (r *Reservation) Release(ctx context.Context) (ReleaseResult, error) {
	// From here on it is not dispatched, also if this fails: it may have counted all the same.
	r.move(Releasing, Held, Dispatched, Kept)
	released, err := r.client.Release(context.WithoutCancel(ctx), r.Org, r.ID)
	if err == nil {
		r.move(Released, Releasing, Kept)
	}
	return released, err
}

// Close ends it: before its dispatch it is released; after it, without a Settle, it is kept and logged. A release
// that fails is logged.
func (r *Reservation) Close(ctx context.Context) {
	if r.move(Kept, Dispatched) {
		r.client.options.logger.WarnContext(ctx,
			"a reservation was dispatched and not settled: its tokens stay counted until midnight",
			"org", r.Org, "request_id", r.ID, "tokens", r.Tokens)
		return
	}
	if r.move(Releasing, Held, Releasing) {
		if _, err := r.Release(ctx); err != nil {
			r.client.logFailedRelease(ctx, r.Org, r.ID, err)
		}
	}
}
