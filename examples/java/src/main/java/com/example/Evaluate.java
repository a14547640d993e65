package com.example;

import com.google.common.collect.ImmutableList;
import com.google.common.collect.ImmutableMap;
import dev.openfeature.contrib.providers.flagd.Config;
import dev.openfeature.contrib.providers.flagd.FlagdOptions;
import dev.openfeature.contrib.providers.flagd.FlagdProvider;
import dev.openfeature.contrib.providers.ofrep.OfrepProvider;
import dev.openfeature.contrib.providers.ofrep.OfrepProviderOptions;
import dev.openfeature.sdk.Client;
import dev.openfeature.sdk.FeatureProvider;
import dev.openfeature.sdk.FlagEvaluationDetails;
import dev.openfeature.sdk.OpenFeatureAPI;
import io.grpc.Metadata;
import io.grpc.stub.MetadataUtils;
import java.net.URI;
import java.util.List;

/** Prints a flag's value with OpenFeature, and each change of it, until Ctrl-C: Evaluate in-process|rpc|ofrep [KEY] */
public final class Evaluate {
    public static void main(String[] arguments) throws InterruptedException {
        String mode = arguments.length > 0 ? arguments[0] : "in-process";
        String key = arguments.length > 1 ? arguments[1] : "checkout";
        String configured = System.getenv("TOGGLED_ADDR");
        URI address = URI.create(configured == null ? "http://localhost:50051" : configured);
        String bearer = "Bearer " + System.getenv("TOGGLED_TOKEN");
        OpenFeatureAPI api = OpenFeatureAPI.getInstance();
        api.setProviderAndWait(mode.equals("ofrep") ? ofrep(address, bearer) : flagd(mode, address, bearer));
        Client flags = api.getClient();

        String shown = "";
        while (true) {
            FlagEvaluationDetails<Boolean> details = flags.getBooleanDetails(key, false);
            // A service would only use details.getValue(): the flag's, or on an error the default.
            String value = key + ": " + (details.getValue() ? "on" : "off");
            if (details.getErrorCode() != null) {
                value += " by default, " + details.getErrorCode() + ": " + details.getErrorMessage();
            }
            if (!value.equals(shown)) {
                System.out.println(value);
                shown = value;
            }
            Thread.sleep(200);
        }
    }

    /** Over gRPC. in-process holds all flags, and keeps their last values while the server is lost. */
    private static FeatureProvider flagd(String mode, URI address, String bearer) {
        Metadata headers = new Metadata();
        headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), bearer);
        return new FlagdProvider(FlagdOptions.builder()
                .resolverType(mode.equals("rpc") ? Config.Resolver.RPC : Config.Resolver.IN_PROCESS)
                .host(address.getHost())
                .port(address.getPort())
                .tls(address.getScheme().equals("https"))
                .certPath(System.getenv("TOGGLED_CA_CERTIFICATE"))
                .deadline(10_000) // the first contact may take longer than the default, half a second
                .clientInterceptors(List.of(MetadataUtils.newAttachHeadersInterceptor(headers)))
                .build());
    }

    /** Over HTTP, with a call for each value. A private CA is named by the property javax.net.ssl.trustStore. */
    private static FeatureProvider ofrep(URI address, String bearer) {
        return OfrepProvider.constructProvider(OfrepProviderOptions.builder()
                .baseUrl(address.toString())
                .headers(ImmutableMap.of("authorization", ImmutableList.of(bearer)))
                .build());
    }
}
