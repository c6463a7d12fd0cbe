import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;
import org.mlflow.api.proto.Service;
import org.mlflow.tracking.MlflowClient;
import org.mlflow.tracking.MlflowHttpException;

/** MLflow's Java client as its documentation shows it. Arguments: the server, an experiment. Prints what comes back. */
public class JavaClient {
    static String sorted(List<String> words) {
        return words.stream().sorted().collect(Collectors.joining(" "));
    }

    public static void main(String[] args) throws Exception {
        MlflowClient client = new MlflowClient(args[0]);
        String experiment = client.createExperiment(args[1]);
        String run = client.createRun(experiment).getRunId();
        client.logParam(run, "rate", "0.1");
        client.logParam(run, "words", "é ü 雪");
        long now = System.currentTimeMillis();
        for (int step = 0; step < 3; step++) {
            client.logMetric(run, "loss", 1.0 / (step + 1), now + step, step);
        }
        client.logBatch(run,
            Arrays.asList(Service.Metric.newBuilder().setKey("batch").setValue(2).setTimestamp(now).build()),
            Arrays.asList(Service.Param.newBuilder().setKey("batch").setValue("b").build()),
            Arrays.asList(Service.RunTag.newBuilder().setKey("batch").setValue("t").build()));
        client.setTag(run, "kind", "a b");
        Path file = Files.createTempDirectory("java").resolve("a.txt");
        Files.writeString(file, "hello");
        client.logArtifact(run, file.toFile());
        client.logArtifacts(run, file.getParent().toFile(), "folder");
        client.setTerminated(run);

        Service.Run found = client.getRun(run);
        System.out.println("status " + found.getInfo().getStatus());
        System.out.println("params " + sorted(found.getData().getParamsList().stream()
            .map(one -> one.getKey() + "=" + one.getValue()).collect(Collectors.toList())));
        System.out.println("metrics " + sorted(found.getData().getMetricsList().stream()
            .map(one -> one.getKey() + "=" + one.getValue()).collect(Collectors.toList())));
        System.out.println("tags " + sorted(found.getData().getTagsList().stream()
            .filter(one -> !one.getKey().startsWith("mlflow."))
            .map(one -> one.getKey() + "=" + one.getValue()).collect(Collectors.toList())));
        System.out.println("history " + client.getMetricHistory(run, "loss").stream()
            .map(one -> one.getStep() + ":" + one.getValue()).collect(Collectors.joining(" ")));
        System.out.println("artifacts " + sorted(client.listArtifacts(run).stream()
            .map(one -> one.getPath() + (one.getIsDir() ? "/" : ":" + one.getFileSize())).collect(Collectors.toList())));
        File back = client.downloadArtifacts(run, "folder/a.txt");
        System.out.println("back " + Files.readString(back.toPath()));
        client.deleteRun(run);
        System.out.println("deleted " + client.searchRuns(Arrays.asList(experiment), "").size());
        client.restoreRun(run);
        System.out.println("searched " + client.searchRuns(
            Arrays.asList(experiment), "metrics.loss < 0.5 and params.rate = '0.1'").size());
        try {
            client.getRun("0123456789abcdef0123456789abcdef");
        } catch (MlflowHttpException error) {
            System.out.println("missing " + error.getStatusCode());
        }
        try {
            client.createExperiment(args[1]);
        } catch (MlflowHttpException error) {
            System.out.println("twice " + error.getStatusCode());
        }
        client.sendPost("registered-models/create", "{\"name\": \"" + args[1] + "\"}");
        client.sendPost("model-versions/create", "{\"name\": \"" + args[1] + "\", \"run_id\": \"" + run
            + "\", \"source\": \"" + found.getInfo().getArtifactUri() + "/folder\"}");
        System.out.println("model " + client.getModelVersion(args[1], "1").getStatus());
        System.out.println("model's " + Files.readString(client.downloadModelVersion(args[1], "1").toPath()
            .resolve("a.txt")));
        client.close();
    }
}
