// Reads a flag as flagd's provider for Go does in its default mode: by Connect, over HTTP/1.1, without a token. It prints the value and
// each change of it, until Ctrl-C.
package main

//go:generate buf generate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"connectrpc.com/connect"

	flagd "toggled.test/clients/gen/flagd/evaluation/v2"
	"toggled.test/clients/gen/flagd/evaluation/v2/evaluationv2connect"
)

func main() {
	key := os.Args[2]
	authority, err := os.ReadFile(os.Getenv("TOGGLED_CA_CERTIFICATE"))
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	// With a TLS configuration of its own, Go's transport speaks HTTP/1.1.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	service := evaluationv2connect.NewServiceClient(client, os.Getenv("TOGGLED_ADDR"))

	show(service, key)
	for {
		if err := follow(service, key); err != nil {
			log.Print(err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// follow shows the value after each event, until the stream breaks.
func follow(service evaluationv2connect.ServiceClient, key string) error {
	events, err := service.EventStream(context.Background(), connect.NewRequest(&flagd.EventStreamRequest{}))
	if err != nil {
		return err
	}
	defer events.Close()
	for events.Receive() {
		fmt.Println("event:", events.Msg().Type)
		show(service, key)
	}
	return events.Err()
}

// show prints the flag's value. A flag that does not exist is an error, at once.
func show(service evaluationv2connect.ServiceClient, key string) {
	request := connect.NewRequest(&flagd.ResolveBooleanRequest{FlagKey: key})
	response, err := service.ResolveBoolean(context.Background(), request)
	if err != nil {
		fmt.Printf("%s: %v\n", key, connect.CodeOf(err))
		return
	}
	fmt.Printf("%s: %s\n", key, response.Msg.GetVariant())
}
