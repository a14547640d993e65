// Flips a flag, reads it, then watches it and follows its audit log until Ctrl-C.
package main

//go:generate buf generate

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log"
	mathrand "math/rand/v2"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	pb "example.com/flags/gen/toggled/v1"
)

// After these a call is repeated. The change may have been made, so a repeated one needs the same request_id.
var retryable = []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Unknown, codes.Internal}

// The log no longer has the cursor: it was trimmed, or restored from a backup.
var cursorLost = []codes.Code{codes.OutOfRange, codes.FailedPrecondition}

// bearer sends a token with each call.
type bearer string

func (token bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

func (bearer) RequireTransportSecurity() bool { return false }

// connect returns a connection to TOGGLED_ADDR with TOGGLED_TOKEN.
func connect() (*grpc.ClientConn, error) {
	address, err := url.Parse(cmp.Or(os.Getenv("TOGGLED_ADDR"), "http://localhost:50051"))
	if err != nil {
		return nil, err
	}
	transport := insecure.NewCredentials()
	if authority := os.Getenv("TOGGLED_CA_CERTIFICATE"); authority != "" {
		if transport, err = credentials.NewClientTLSFromFile(authority, ""); err != nil {
			return nil, err
		}
	} else if address.Scheme == "https" {
		transport = credentials.NewTLS(nil)
	}
	return grpc.NewClient(address.Host,
		grpc.WithTransportCredentials(transport),
		grpc.WithPerRPCCredentials(bearer(os.Getenv("TOGGLED_TOKEN"))),
		// Pings find a lost connection, on which a stream would wait for ever.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second}))
}

// pause waits before the next attempt, up to 5 seconds. It returns an error that no retry can mend.
func pause(ctx context.Context, err error, attempt int) error {
	if !slices.Contains(retryable, status.Code(err)) {
		return err
	}
	log.Printf("%v; retrying", err)
	delay := min(5*time.Second, 200*time.Millisecond<<min(attempt, 10))
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(delay/2 + mathrand.N(delay/2)):
		return nil
	}
}

// retry repeats a call until it succeeds.
func retry[Request, Response any](ctx context.Context, call func(context.Context, Request, ...grpc.CallOption) (Response, error), request Request) (Response, error) {
	for attempt := 0; ; attempt++ {
		limited, cancel := context.WithTimeout(ctx, 10*time.Second)
		response, err := call(limited, request)
		cancel()
		if err == nil || attempt == 20 {
			return response, err
		}
		if err := pause(ctx, err, attempt); err != nil {
			return response, err
		}
	}
}

// resume reads a stream for ever. When it breaks, it opens it again.
func resume[Message any](ctx context.Context, open func() (grpc.ServerStreamingClient[Message], error), handle func(*Message)) error {
	for attempt := 0; ; attempt++ {
		stream, err := open()
		for err == nil {
			var message *Message
			if message, err = stream.Recv(); err == nil {
				handle(message)
				attempt = 0
			}
		}
		if err := pause(ctx, err, attempt); err != nil {
			return err
		}
	}
}

func show(what string, flag *pb.FeatureFlag) {
	state := map[bool]string{true: "enabled", false: "disabled"}[flag.Status == pb.FeatureFlagStatus_FEATURE_FLAG_STATUS_ENABLED]
	fmt.Printf("%s %s: %s at revision %d\n", what, flag.Key, state, flag.Revision)
}

// watch prints the flag's state, and each change of it.
func watch(ctx context.Context, toggles pb.ToggleServiceClient, key string) error {
	for {
		// The request holds the cursor.
		request := &pb.WatchFeatureFlagsRequest{Keys: []string{key}}
		open := func() (grpc.ServerStreamingClient[pb.WatchFeatureFlagsResponse], error) {
			return toggles.WatchFeatureFlags(ctx, request)
		}
		err := resume(ctx, open, func(message *pb.WatchFeatureFlagsResponse) {
			for _, flag := range message.FeatureFlags {
				show("watched", flag)
			}
			request.AfterRevision, request.AfterHash, request.LogId = &message.Revision, message.Hash, &message.LogId
		})
		if !slices.Contains(cursorLost, status.Code(err)) {
			return err
		}
	}
}

// follow prints the flag's audit entries, and each new one. It ends if the log is not the one it was.
func follow(ctx context.Context, audits pb.AuditServiceClient, flagID string) error {
	request := &pb.StreamAuditLogsRequest{EntityId: &flagID, Follow: true}
	open := func() (grpc.ServerStreamingClient[pb.StreamAuditLogsResponse], error) {
		return audits.StreamAuditLogs(ctx, request)
	}
	return resume(ctx, open, func(message *pb.StreamAuditLogsResponse) {
		for _, entry := range message.Items {
			fmt.Printf("audited %s: %s at revision %d by %s\n", entry.EntityKey, entry.ActionType, entry.Revision, entry.UserEmail)
		}
		request.AfterRevision, request.AfterHash, request.LogId = &message.ThroughRevision, message.ThroughHash, &message.LogId
	})
}

func run(ctx context.Context, key string) error {
	connection, err := connect()
	if err != nil {
		return err
	}
	defer connection.Close()
	toggles, audits := pb.NewToggleServiceClient(connection), pb.NewAuditServiceClient(connection)

	// All attempts have one request_id, so the flag is flipped once.
	requestID := rand.Text()
	flipped, err := retry(ctx, toggles.ToggleFeatureFlag, &pb.ToggleFeatureFlagRequest{
		Flag: &pb.ToggleFeatureFlagRequest_Key{Key: key}, Reason: "an example", RequestId: &requestID,
	})
	if err != nil {
		return err
	}
	show("flipped", flipped.FeatureFlag)
	// Another server may answer: min_revision makes it wait for the flip.
	read, err := retry(ctx, toggles.GetFeatureFlag, &pb.GetFeatureFlagRequest{
		Flag: &pb.GetFeatureFlagRequest_Key{Key: key}, MinRevision: &flipped.Revision,
	})
	if err != nil {
		return err
	}
	show("read", read.FeatureFlag)

	failed := make(chan error, 2)
	go func() { failed <- watch(ctx, toggles, key) }()
	go func() { failed <- follow(ctx, audits, read.FeatureFlag.Id) }()
	return <-failed
}

func main() {
	key := "checkout"
	if len(os.Args) > 1 {
		key = os.Args[1]
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, key); ctx.Err() == nil {
		log.Fatal(err)
	}
}
