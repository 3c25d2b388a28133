package quota

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is a failed call, with the service's own words. Use errors.As, or status.Code.
type Error struct {
	Code    codes.Code
	Message string
}

// Error returns the code and the service's words.
func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Code, e.Message) }

// GRPCStatus lets status.Code see the code.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

// OutcomeUnknown reports whether the call, or an attempt before a retry, may have counted all the same.
func (e *Error) OutcomeUnknown() bool {
	switch e.Code {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied,
		codes.Unauthenticated, codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented:
		return false
	}
	return true
}

func failure(err error) error {
	known := status.Convert(err)
	return &Error{Code: known.Code(), Message: known.Message()}
}
