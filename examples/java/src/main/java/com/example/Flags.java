package com.example;

import com.toggled.v1.AuditLog;
import com.toggled.v1.AuditServiceGrpc;
import com.toggled.v1.AuditServiceGrpc.AuditServiceBlockingStub;
import com.toggled.v1.FeatureFlag;
import com.toggled.v1.FeatureFlagStatus;
import com.toggled.v1.GetFeatureFlagRequest;
import com.toggled.v1.StreamAuditLogsRequest;
import com.toggled.v1.ToggleFeatureFlagRequest;
import com.toggled.v1.ToggleServiceGrpc;
import com.toggled.v1.ToggleServiceGrpc.ToggleServiceBlockingStub;
import com.toggled.v1.WatchFeatureFlagsRequest;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status.Code;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.net.URI;
import java.util.Iterator;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Supplier;

/** Flips a flag, reads it, then watches it and follows its audit log until Ctrl-C. */
public final class Flags {
    /** After these a call is repeated. The change may have been made, so a repeated one needs the same request_id. */
    private static final Set<Code> RETRYABLE =
            Set.of(Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.UNKNOWN, Code.INTERNAL, Code.CANCELLED);

    /** The log no longer has the cursor: it was trimmed, or restored from a backup. */
    private static final Set<Code> CURSOR_LOST = Set.of(Code.OUT_OF_RANGE, Code.FAILED_PRECONDITION);

    private static final int ATTEMPTS = 20;

    public static void main(String[] arguments) throws IOException {
        String key = arguments.length > 0 ? arguments[0] : "checkout";
        ManagedChannel channel = connect();
        Metadata headers = new Metadata();
        headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + System.getenv("TOGGLED_TOKEN"));
        var authorize = MetadataUtils.newAttachHeadersInterceptor(headers);
        ToggleServiceBlockingStub toggles = ToggleServiceGrpc.newBlockingStub(channel).withInterceptors(authorize);
        AuditServiceBlockingStub audits = AuditServiceGrpc.newBlockingStub(channel).withInterceptors(authorize);

        // All attempts have one request_id, so the flag is flipped once.
        var flip = ToggleFeatureFlagRequest.newBuilder()
                .setKey(key)
                .setReason("an example")
                .setRequestId(UUID.randomUUID().toString())
                .build();
        var flipped = retry(() -> toggles.withDeadlineAfter(10, TimeUnit.SECONDS).toggleFeatureFlag(flip));
        show("flipped", flipped.getFeatureFlag());
        // Another server may answer: min_revision makes it wait for the flip.
        var wanted = GetFeatureFlagRequest.newBuilder().setKey(key).setMinRevision(flipped.getRevision()).build();
        var read = retry(() -> toggles.withDeadlineAfter(10, TimeUnit.SECONDS).getFeatureFlag(wanted));
        show("read", read.getFeatureFlag());

        String flagId = read.getFeatureFlag().getId();
        CompletableFuture.anyOf(
                        CompletableFuture.runAsync(() -> watch(toggles, key), task -> new Thread(task).start()),
                        CompletableFuture.runAsync(() -> follow(audits, flagId), task -> new Thread(task).start()))
                .join();
    }

    /** A channel to TOGGLED_ADDR. */
    private static ManagedChannel connect() throws IOException {
        String configured = System.getenv("TOGGLED_ADDR");
        URI address = URI.create(configured == null ? "http://localhost:50051" : configured);
        String authority = System.getenv("TOGGLED_CA_CERTIFICATE");
        ChannelCredentials transport = InsecureChannelCredentials.create();
        if (authority != null) {
            transport = TlsChannelCredentials.newBuilder().trustManager(new File(authority)).build();
        } else if (address.getScheme().equals("https")) {
            transport = TlsChannelCredentials.create();
        }
        return Grpc.newChannelBuilderForAddress(address.getHost(), address.getPort(), transport)
                .keepAliveTime(30, TimeUnit.SECONDS) // finds a lost connection, on which a stream would wait for ever
                .build();
    }

    /** Prints the flag's state, and each change of it. */
    private static void watch(ToggleServiceBlockingStub toggles, String key) {
        while (true) {
            // The request holds the cursor.
            var request = WatchFeatureFlagsRequest.newBuilder().addKeys(key);
            try {
                resume(() -> toggles.watchFeatureFlags(request.build()), message -> {
                    message.getFeatureFlagsList().forEach(flag -> show("watched", flag));
                    request.setAfterRevision(message.getRevision()).setAfterHash(message.getHash()).setLogId(message.getLogId());
                });
            } catch (StatusRuntimeException error) {
                if (!CURSOR_LOST.contains(error.getStatus().getCode())) {
                    throw error;
                }
            }
        }
    }

    /** Prints the flag's audit entries, and each new one. Ends if the log is not the one it was. */
    private static void follow(AuditServiceBlockingStub audits, String flagId) {
        var request = StreamAuditLogsRequest.newBuilder().setEntityId(flagId).setFollow(true);
        resume(() -> audits.streamAuditLogs(request.build()), message -> {
            for (AuditLog entry : message.getItemsList()) {
                System.out.printf("audited %s: %s at revision %d by %s%n",
                        entry.getEntityKey(), entry.getActionType(), entry.getRevision(), entry.getUserEmail());
            }
            request.setAfterRevision(message.getThroughRevision()).setAfterHash(message.getThroughHash()).setLogId(message.getLogId());
        });
    }

    /** Repeats a call until it succeeds. */
    private static <T> T retry(Supplier<T> call) {
        for (int attempt = 0; ; attempt++) {
            try {
                return call.get();
            } catch (StatusRuntimeException error) {
                if (attempt == ATTEMPTS) {
                    throw error;
                }
                check(error);
            }
            pause(attempt);
        }
    }

    /** Reads a stream for ever. When it breaks, opens it again. */
    private static <T> void resume(Supplier<Iterator<T>> open, Consumer<T> handle) {
        for (int attempt = 0; ; attempt++) {
            try {
                for (Iterator<T> messages = open.get(); messages.hasNext(); attempt = 0) {
                    handle.accept(messages.next());
                }
            } catch (StatusRuntimeException error) {
                check(error);
            }
            pause(attempt);
        }
    }

    /** Reports an error, and throws it if no retry can mend it. */
    private static void check(StatusRuntimeException error) {
        if (!RETRYABLE.contains(error.getStatus().getCode())) {
            throw error;
        }
        System.err.println(error.getMessage() + "; retrying");
    }

    /** Waits before the next attempt, up to 5 seconds. */
    private static void pause(int attempt) {
        double delay = Math.min(5_000, 200 * Math.pow(2, attempt));
        try {
            Thread.sleep((long) (delay * ThreadLocalRandom.current().nextDouble(0.5, 1)));
        } catch (InterruptedException interrupted) {
            throw new IllegalStateException(interrupted);
        }
    }

    private static void show(String what, FeatureFlag flag) {
        String status = flag.getStatus() == FeatureFlagStatus.FEATURE_FLAG_STATUS_ENABLED ? "enabled" : "disabled";
        System.out.printf("%s %s: %s at revision %d%n", what, flag.getKey(), status, flag.getRevision());
    }
}
