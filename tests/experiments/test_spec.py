from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.errors import SpecError
from experiments.spec import MAX_TRIALS, SweepSpec, load_spec

Load = Callable[[str], SweepSpec]
Fault = Callable[[str], str]


def deep(section: str, values: str) -> str:
    """A spec whose sixth line has a section of the experiment."""
    return f"{{EXPERIMENT}}\n  {section}:\n    {values}\n"


class TestWholeMessages:
    """What a person reads. Each message says where, what was given, what is allowed, and the nearest name."""

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            pytest.param(
                deep("train", "epochz: 3"),
                "sweep.yaml:6: got unknown key 'epochz' in train; expected one of epochs, optimizer, lr, "
                "lr_schedule, lr_milestones, lr_step_epochs, lr_gamma, warmup_steps, backbone_lr_factor, "
                "head_lr_factor, refinement_lr_factor, bias_lr_factor, momentum, weight_decay, batch_size, accumulate, "
                "resize, scales_px, max_side_px, pad_square, rescale, flip, spatial_weight, spatial_iou, spatial_top; "
                "did you mean epochs?",
                id="misspelt key",
            ),
            pytest.param(
                "{EXPERIMENT}\n  trian: {epochs: 3}\n",
                "sweep.yaml:5: got unknown key 'trian'; expected one of task, seed, data, proposals, model, train, "
                "evaluate, checkpoint; did you mean train?",
                id="misspelt section",
            ),
            pytest.param(
                "{EXPERIMENT}\nsaerch: []\n",
                "sweep.yaml:5: got unknown key 'saerch'; expected one of name, question, extends, experiment, search, "
                "seeds, objective, pruner, final, resources, retry, tracking; did you mean search?",
                id="misspelt top key",
            ),
            pytest.param(
                "experimnt: {task: wsddn}\n",
                "sweep.yaml:1: got unknown key 'experimnt'; expected one of name, question, extends, experiment, "
                "search, seeds, objective, pruner, final, resources, retry, tracking; did you mean experiment?\n"
                "sweep.yaml:1: missing key experiment; expected it to be given",
                id="misspelt required key: the misspelling first",
            ),
            pytest.param(
                "{EXPERIMENT}\nsearch:\n  - gird: {train.lr: [0.1]}\n",
                "sweep.yaml:6: got unknown key 'gird' in search[0]; expected one of grid, zip, sample, exclude, "
                "only, sampler, trials, sampler_seed; did you mean grid?",
                id="misspelt kind of block",
            ),
            pytest.param(
                deep("train", "epochs: three"),
                "sweep.yaml:6: got 'three' for train.epochs; expected a whole number",
                id="wrong type",
            ),
            pytest.param(
                deep("train", "scales_px: [128, big]"),
                "sweep.yaml:6: got 'big' for train.scales_px[1]; expected a whole number",
                id="wrong type in a list",
            ),
            pytest.param(
                "experiment:\n  task: wsddn\n  data: {root: digits}\n  model:\n    backbone: resnet19\n",
                "sweep.yaml:5: got 'resnet19' for model.backbone; expected one of tiny, alexnet, vgg16, resnet18, "
                "resnet50 or timm/<model>; did you mean resnet18?",
                id="unknown backbone",
            ),
            pytest.param(
                "{EXPERIMENT}\nsearch:\n  - grid:\n      train.lr: [0.1]\n      train.lrr: [0.1]\n",
                "sweep.yaml:8: got unknown key 'train.lrr' in search[0].grid; expected a config key; "
                "did you mean train.lr?",
                id="unknown swept key",
            ),
            pytest.param(
                "{EXPERIMENT}\nsearch:\n  - zip:\n      train.lr: [0.1, 0.2]\n      train.epochs: [1]\n",
                "sweep.yaml:6: got lists of unequal lengths in zip (train.lr has 2, train.epochs has 1); "
                "expected equal lengths",
                id="unequal zip",
            ),
            pytest.param(
                "{EXPERIMENT}\nseeds: 2\nobjective:\n  metric: ap50/mean\n",
                "sweep.yaml:7: got 'ap50/mean' for objective.metric; expected <metric>/mean or <metric>/<class> with a "
                "metric of task wsddn: ap50_11pt, ap50_area, corloc50, cls_ap, point_ap, pointing_game, "
                "proposal_recall50, or one that every trial has in evaluate.metrics; did you mean ap50_area/mean?",
                id="unknown metric",
            ),
            pytest.param(
                "{EXPERIMENT}\nseeds: [0, 1]\nseeds: [2]\n",
                "sweep.yaml:6: got key 'seeds' twice (first in line 5); expected each key once",
                id="duplicate YAML key",
            ),
            pytest.param(
                "name: results/mine\n{EXPERIMENT}\n",
                "sweep.yaml:1: got 'results/mine' for name; expected letters, digits, '.', '_' and '-' "
                "(at most 100, the first a letter or digit)",
                id="a name that is a path",
            ),
        ],
    )
    def test_exactly(self, fault: Fault, text: str, message: str) -> None:
        assert fault(text) == message


class TestFaultsOfTheConfig:
    @pytest.mark.parametrize(
        ("section", "values", "problem"),
        [
            ("train", "epochs: 3.5", "got 3.5 for train.epochs; expected a whole number"),
            ("train", "epochs: true", "got true for train.epochs; expected a whole number"),
            ("train", "epochs: '3'", "got '3' for train.epochs; expected a whole number"),
            ("train", "epochs: null", "got null for train.epochs; expected a whole number"),
            ("train", "epochs: 0", "got 0 for train.epochs; expected a number greater than 0"),
            ("train", "lr: fast", "got 'fast' for train.lr; expected a number"),
            ("train", "lr: [0.1]", "got [0.1] for train.lr; expected a number"),
            ("train", "lr: {value: 0.1}", "got {'value': 0.1} for train.lr; expected a number"),
            ("train", "lr: 0", "got 0 for train.lr; expected a number greater than 0"),
            ("train", "lr_gamma: 1.5", "got 1.5 for train.lr_gamma; expected a number less than or equal to 1"),
            ("train", "flip: no", "got 'no' for train.flip; expected true or false"),
            ("train", "flip: 1", "got 1 for train.flip; expected true or false"),
            ("train", "scales_px: 128", "got 128 for train.scales_px; expected a list"),
            ("train", "scales_px: []", "got [] for train.scales_px; expected a list that is not empty"),
            (
                "train",
                "optimizer: sdg",
                "got 'sdg' for train.optimizer; expected sgd or adam or adamw; did you mean sgd",
            ),
            ("evaluate", "nms_iou: 1.01", "got 1.01 for evaluate.nms_iou; expected a number less than or equal to 1"),
            ("proposals", "source: selective_serach", "; did you mean selective_search?"),
            ("proposals", "source: file", "expected proposals.file (a .mat or .npz) with proposals.source: file"),
            ("proposals", "file: a.npz", "expected no proposals.file with proposals.source: selective_search"),
        ],
    )
    def test_at_the_line(self, fault: Fault, section: str, values: str, problem: str) -> None:
        message = fault(deep(section, values))
        assert message.startswith("sweep.yaml:6: ")
        assert problem in message

    @pytest.mark.parametrize(
        ("values", "problem"),
        [
            ("classes: vok", "got 'vok' for data.classes; expected voc or auto or a list; did you mean voc?"),
            ("classes: 3", "got 3 for data.classes; expected voc or auto or a list"),
            ("classes: []", "got [] for data.classes; expected voc or auto or a list that is not empty"),
            ("classes: [cat, 3]", "got 3 for data.classes[1]; expected text"),
            ("classes: [cat, cat]", "got ['cat', 'cat'] for data.classes; expected each class once"),
            ("classes: [cat, mean]", "expected another name for class 'mean'"),
            ("root: ''", "got '' for data.root; expected text that is not empty"),
            ("{}", "missing key data.root; expected it to be given"),
            ("[digits]", "got ['digits'] for data; expected a mapping of keys to values"),
            ("digits", "got 'digits' for data; expected a mapping of keys to values"),
        ],
    )
    def test_of_the_data(self, fault: Fault, values: str, problem: str) -> None:
        root = "root: digits\n    " if values.startswith("classes") else ""
        message = fault(f"experiment:\n  task: wsddn\n  data:\n    {root}{values}\n")
        assert re.match(r"sweep\.yaml:[345]: ", message)
        assert problem in message
        assert "\n" not in message

    @pytest.mark.parametrize(
        ("model", "problem"),
        [
            ("backbone: timm/resnet5O", "did you mean timm/resnet50?"),
            ("backbone: tf_efficientnet_lite0", "did you mean timm/tf_efficientnet_lite0?"),
            ("backbone: 50", "got 50 for model.backbone; expected text"),
            ("backbone: timm/", "got 'timm/' for model.backbone; expected one of tiny, alexnet"),
            ("weights: model.bin", "got 'model.bin' for model.weights; expected imagenet, none, or a file ending in"),
            ("backbone: tiny", "expected model.weights: none (or a file) with model.backbone: tiny"),
            ("roi_size: 7", "expected model.roi_size: 6, which the pretrained fc6 of alexnet needs"),
            ("fc_dim: 1024", "expected model.fc_dim: 4096, the width of the pretrained fc6 of alexnet"),
        ],
    )
    def test_of_the_model(self, fault: Fault, model: str, problem: str) -> None:
        message = fault(f"experiment:\n  task: wsddn\n  data: {{root: digits}}\n  model:\n    {model}\n")
        assert message.startswith("sweep.yaml:5: ")  # also where a rule between two keys is broken
        assert problem in message

    def test_a_task_is_needed_and_the_choices_are_named(self, fault: Fault) -> None:
        assert fault("experiment:\n  data: {root: digits}\n") == (
            "sweep.yaml:1: missing key task; expected wsddn or localizer"
        )
        assert fault("experiment:\n  task: wsdn\n  data: {root: digits}\n") == (
            "sweep.yaml:2: got 'wsdn' for task; expected wsddn or localizer; did you mean wsddn?"
        )

    def test_all_faults_in_the_order_of_the_file(self, fault: Fault) -> None:
        message = fault("experiment:\n  task: wsdn\n  train:\n    lr: x\n    epochs: y\n  data: {root: 3}\n")
        assert [line.partition("; ")[0] for line in message.splitlines()] == [
            "sweep.yaml:2: got 'wsdn' for task",
            "sweep.yaml:4: got 'x' for train.lr",
            "sweep.yaml:5: got 'y' for train.epochs",
            "sweep.yaml:6: got 3 for data.root",
        ]

    def test_a_thousand_faults_are_cut_short(self, fault: Fault) -> None:
        lines = fault(deep("train", f"scales_px: [{', '.join('x' * 1000)}]")).splitlines()
        assert len(lines) == 21
        assert lines[-1] == "... and 980 more faults"

    def test_long_values_are_cut_short(self, fault: Fault) -> None:
        message = fault(deep("train", f"lr: {'x' * 10_000}"))
        assert len(message) < 160
        assert "xxx..." in message

    @pytest.mark.parametrize("text", ["- 1\n", "hello\n", "~\n", "---\n", "3\n", "true\n"])
    def test_a_file_that_is_no_mapping(self, fault: Fault, text: str) -> None:
        assert fault(text).endswith(" for the file; expected a mapping of keys to values")


class TestFaultsOfTheSearch:
    @pytest.mark.parametrize(
        ("block", "problem"),
        [
            (
                "grid: {lr: [0.1]}",
                "got unknown key 'lr' in search[0].grid; expected a config key; did you mean train.lr?",
            ),
            ("zip: {lr: [0.1]}", "got unknown key 'lr' in search[0].zip"),
            ("grid: {train: [{lr: 0.1}]}", "got unknown key 'train' in search[0].grid; expected a config key"),
            ("grid: {seed: [1, 2]}", "got seed as a swept key; expected replicates as `seeds: [0, 1, 2]`"),
            ("grid: {train.lr: 0.1}", "got 0.1 for search[0].grid.train.lr; expected a list"),
            ("grid: {train.lr: []}", "got [] for search[0].grid.train.lr; expected a list that is not empty"),
            ("grid: {}", "got {} for search[0].grid; expected at least one key"),
            ("zip: {}", "got {} for search[0].zip; expected at least one key"),
            ("grid: [0.1]", "got [0.1] for search[0].grid; expected a mapping of keys to values"),
            (
                "grid: {train.lr: [0.1]}\n    zip: {train.lr: [1]}",
                "expected exactly one of grid, zip, sample; got grid and zip",
            ),
            ("{}", "expected exactly one of grid, zip, sample; got none"),
            ("grid", "got 'grid' for search[0]; expected a mapping of keys to values"),
            ("grid: {train.scales_px: [128, 256]}", "got 128 for train.scales_px; expected a list"),
            ("grid: {train.lr: [0.1, .inf]}", "got .inf; expected a finite number"),
        ],
    )
    def test_of_a_block(self, fault: Fault, block: str, problem: str) -> None:
        message = fault(f"{{EXPERIMENT}}\nsearch:\n  - {block}\n")
        assert message.startswith("sweep.yaml:6: ")
        assert problem in message

    @pytest.mark.parametrize("search", ["{grid: {train.lr: [0.1]}}", "grid", "null", "3"])
    def test_that_is_no_list(self, fault: Fault, search: str) -> None:
        assert fault(f"{{EXPERIMENT}}\nsearch: {search}\n").endswith(" for search; expected a list")

    def test_a_value_is_blamed_where_it_stands(self, fault: Fault) -> None:
        text = "{EXPERIMENT}\nsearch:\n  - grid:\n      train.lr:\n        - 0.1\n        - fast\n        - 0.3\n"
        assert fault(text) == "sweep.yaml:9: got 'fast' for train.lr; expected a number"

    def test_an_item_of_a_swept_list_is_blamed_at_its_value(self, fault: Fault) -> None:
        text = "{EXPERIMENT}\nsearch:\n  - grid:\n      train.scales_px:\n        - [128]\n        - [128, x]\n"
        assert fault(text) == "sweep.yaml:9: got 'x' for train.scales_px[1]; expected a whole number"

    def test_a_rule_between_keys_is_blamed_at_the_swept_one(self, fault: Fault) -> None:
        axes = "      train.lr: [0.1]\n      model.weights:\n        - none\n        - imagenet\n"
        text = f"{{EXPERIMENT}}\nsearch:\n  - grid:\n{axes}"
        message = fault(text)
        assert message.startswith("sweep.yaml:10: expected model.weights: none (or a file) with model.backbone: tiny")

    def test_a_section_that_is_no_mapping_is_not_replaced_by_a_swept_key(self, fault: Fault) -> None:
        text = "{EXPERIMENT}\n  train: 3\nsearch:\n  - grid: {train.lr: [0.1]}\n"
        assert fault(text) == "sweep.yaml:5: got 3 for train; expected a mapping of keys to values"

    def test_in_the_second_block(self, fault: Fault) -> None:
        text = "{EXPERIMENT}\nsearch:\n  - grid: {train.lr: [0.1]}\n  - zip: {train.lr: [0.2], train.epochs: [x]}\n"
        assert fault(text) == "sweep.yaml:7: got 'x' for train.epochs; expected a whole number"

    def test_a_space_too_large_is_refused_before_it_is_expanded(self, fault: Fault) -> None:
        values = ", ".join(str(n / 1000) for n in range(1, 1000))
        keys = ("train.lr", "train.weight_decay", "train.lr_gamma", "evaluate.nms_iou", "evaluate.score_threshold")
        axes = "\n".join(f"      {key}: [{values}]" for key in keys)
        assert fault(f"{{EXPERIMENT}}\nsearch:\n  - grid:\n{axes}\n") == (
            "sweep.yaml:5: got more than 1,000,000,000,000 trials; expected at most 50,000"
        )

    def test_blocks_and_seeds_count_together(self, fault: Fault, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("experiments.spec.MAX_TRIALS", 10)
        blocks = "  - grid: {train.lr: [1, 2, 3]}\n  - zip: {train.lr: [4, 5], train.epochs: [1, 2]}\n"
        text = f"{{EXPERIMENT}}\nsearch:\n{blocks}"
        assert len(load(text + "seeds: 2\n").plans) == 10
        assert fault(text + "seeds: 3\n") == "sweep.yaml:5: got 15 trials; expected at most 10"

    def test_the_limit_leaves_room(self) -> None:
        assert MAX_TRIALS >= 10_000


class TestFaultsOfTheRest:
    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("seeds: [0, 1, 0]", "got seed 0 twice; expected each seed once"),
            ("seeds: [0, -1]", "got -1 for seeds[1]; expected a number greater than or equal to 0"),
            ("seeds: [4294967296]", "got 4294967296 for seeds[0]; expected a number less than 4294967296"),
            ("seeds: [zero]", "got 'zero' for seeds[0]; expected a whole number"),
            ("seeds: []", "got [] for seeds; expected a whole number or a list that is not empty"),
            ("seeds: 0", "got 0 for seeds; expected a number greater than 0 or a list"),
            ("seeds: 1001", "got 1001 for seeds; expected a number less than or equal to 1000 or a list"),
            ("seeds: few", "got 'few' for seeds; expected a whole number or a list"),
            ("seeds: 1.5", "got 1.5 for seeds; expected a whole number or a list"),
            ("objective: {}", "missing key objective.metric; expected it to be given"),
            ("objective: cls_ap/mean", "got 'cls_ap/mean' for objective; expected a mapping of keys to values"),
            ("objective: {metric: cls_ap}", "got 'cls_ap' for objective.metric; expected <metric>/mean"),
            ("objective: {metric: cls_ap/}", "got 'cls_ap/' for objective.metric; expected <metric>/mean"),
            ("objective: {metric: /mean}", "got '/mean' for objective.metric; expected <metric>/mean"),
            ("objective: {metric: cls_pa/digit_3}", "did you mean cls_ap/digit_3?"),
            ("objective: {metric: 3}", "got 3 for objective.metric; expected text"),
            (
                "objective: {metric: cls_ap/mean, direction: minimise}",
                "got 'minimise' for objective.direction; expected maximize or minimize; did you mean minimize?",
            ),
            ("resources: {cpu_slots: many}", "got 'many' for resources.cpu_slots; expected auto or a whole number"),
            (
                "resources: {trials_per_gpu: all}",
                "got 'all' for resources.trials_per_gpu; expected auto or a whole number",
            ),
            ("resources: {trials_per_gpu: 0}", "got 0 for resources.trials_per_gpu; expected auto or a number greater"),
            ("resources: {cpu_slots: 0}", "got 0 for resources.cpu_slots; expected auto or a number greater than 0"),
            (
                "resources: {cpus: 3}",
                "got unknown key 'cpus' in resources; expected one of cpu_slots, trials_per_gpu, keep_checkpoints; did"
                " you mean",
            ),
            (
                "resources: {keep_checkpoints: weight}",
                "got 'weight' for resources.keep_checkpoints; expected weights or all or none; did you mean weights?",
            ),
            (
                "resources: {keep_checkpoints: 2}",
                "got 2 for resources.keep_checkpoints; expected weights or all or none",
            ),
            ("retry: {max_attempts: 0}", "got 0 for retry.max_attempts; expected a number greater than 0"),
            (
                "tracking: {wandb: {mode: onlin}}",
                "'onlin' for tracking.wandb.mode; expected auto or online or offline or disabled; did you mean online?",
            ),
            ("retry: 3", "got 3 for retry; expected a mapping of keys to values"),
            ("question: [what]", "got ['what'] for question; expected text"),
        ],
    )
    def test_at_the_line(self, fault: Fault, line: str, problem: str) -> None:
        message = fault(f"{{EXPERIMENT}}\n{line}\n")
        assert message.startswith("sweep.yaml:5: ")
        assert problem in message
        assert "\n" not in message

    def test_seeds_in_two_places(self, fault: Fault) -> None:
        assert fault("{EXPERIMENT}\n  seed: 3\nseeds: [0]\n") == (
            "sweep.yaml:6: got both seeds and experiment.seed; expected one of them"
        )

    def test_an_objective_must_be_a_metric_of_every_task(self, fault: Fault, load: Load) -> None:
        text = "{EXPERIMENT}\nsearch:\n  - grid: {task: [wsddn, localizer]}\n"
        assert load(text).objective.metric == "ap50_11pt/mean"
        assert load(text.replace("wsddn, localizer", "localizer, wsddn")).objective.metric == "cls_ap/mean"
        common = (
            "a metric of task wsddn and localizer: ap50_11pt, ap50_area, corloc50, cls_ap, point_ap, pointing_game, or"
        )
        for metric in ("maxboxacc_v2", "proposal_recall50"):
            assert common in fault(text + f"objective: {{metric: {metric}/mean}}\n")

    def test_an_objective_may_be_a_metric_that_every_trial_adds(self, fault: Fault, load: Load) -> None:
        objective = "objective: {metric: ap30_area/digit_3}\n"
        assert (
            load("{EXPERIMENT}\n  evaluate: {metrics: [ap30_area]}\n" + objective).objective.metric
            == "ap30_area/digit_3"
        )
        some = "{EXPERIMENT}\nsearch:\n  - grid: {evaluate.metrics: [[ap30_area], [corloc70]]}\n"
        assert "got 'ap30_area/digit_3' for objective.metric; expected" in fault(some + objective)
        assert "or one that every trial has in evaluate.metrics" in fault("{EXPERIMENT}\n" + objective)

    @pytest.mark.parametrize(
        ("metrics", "message"),
        [
            (
                "[ap30]",
                "sweep.yaml:5: got ['ap30'] for evaluate.metrics; expected ap<NN>_11pt, ap<NN>_area, corloc<NN>, "
                "proposal_recall<NN>, cls_ap, point_ap, pointing_game or maxboxacc_v2, with NN from 05 to 95; "
                "did you mean ap30_area?",
            ),
            ("[corloc30, corloc30]", "for evaluate.metrics; expected each metric once, corloc30 is listed twice"),
            (
                "[maxboxacc_v2]",
                "sweep.yaml:5: expected no maxboxacc_v2 in evaluate.metrics with task: wsddn; only task: "
                "localizer has it",
            ),
            ("ap30_area", "sweep.yaml:5: got 'ap30_area' for evaluate.metrics; expected a list"),
            ("[30]", "sweep.yaml:5: got 30 for evaluate.metrics[0]; expected text"),
        ],
    )
    def test_metrics_that_are_added_are_metrics(self, fault: Fault, metrics: str, message: str) -> None:
        assert message in fault(f"{{EXPERIMENT}}\n  evaluate: {{metrics: {metrics}}}\n")

    @pytest.mark.parametrize(
        "name", ["a/b", "..", ".", ".hidden", "", "/", "a b", "é", "a\\b", "-x", "a" * 101, "a:b", "CON?"]
    )
    def test_names_that_are_no_folder_names(self, fault: Fault, name: str) -> None:
        quoted = name.replace("\\", "\\\\")
        assert "for name; expected letters, digits" in fault(f'name: "{quoted}"\n{{EXPERIMENT}}\n')

    def test_a_name_may_not_end_in_a_line_break(self, fault: Fault) -> None:
        assert "for name; expected letters, digits" in fault('name: "abc\\n"\n{EXPERIMENT}\n')

    @pytest.mark.parametrize("name", ["a", "A.b_c-1", "a" * 100, "7"])
    def test_names(self, load: Load, name: str) -> None:
        assert load(f'name: "{name}"\n{{EXPERIMENT}}\n').name == name

    def test_the_file_gives_the_name(self, spec_file: Callable[[str], Path], tmp_path: Path) -> None:
        file = spec_file("{EXPERIMENT}\n")
        assert load_spec(file).name == "sweep"
        unnamed = file.rename(tmp_path / "a sweep.yaml")
        with pytest.raises(SpecError, match="got file name 'a sweep.yaml', which cannot name a results folder"):
            load_spec(unnamed)


class TestExpansion:
    def test_without_a_search_there_is_one_trial(self, load: Load) -> None:
        spec = load("{EXPERIMENT}\n")
        assert [plan.config.seed for plan in spec.plans] == [0]
        assert spec.swept_keys == ()
        assert spec.merged == 0
        assert spec.objective.metric == "ap50_11pt/mean"

    def test_a_grid_is_nested_loops_and_replicates_stand_together(self, load: Load) -> None:
        axes = "      train.lr: [0.3, 0.1]\n      proposals.count: [20, null, 10]\n"
        spec = load(f"{{EXPERIMENT}}\nsearch:\n  - grid:\n{axes}seeds: [5, 2]\n")
        expected = list(itertools.product([0.3, 0.1], [20, None, 10], [5, 2]))
        found = [(p.config.train.lr, p.config.proposals.count, p.config.seed) for p in spec.plans]
        assert found == expected
        assert spec.swept_keys == ("train.lr", "proposals.count")
        assert [dict(plan.swept) for plan in spec.plans[:2]] == [{"train.lr": 0.3, "proposals.count": 20}] * 2

    def test_blocks_follow_one_another(self, load: Load) -> None:
        spec = load(
            "{EXPERIMENT}\nsearch:\n"
            "  - zip: {train.lr: [0.1, 0.2], train.epochs: [1, 2]}\n"
            "  - grid: {train.optimizer: [adam], train.lr: [0.5]}\n"
        )
        found = [(p.config.train.lr, p.config.train.epochs, p.config.train.optimizer) for p in spec.plans]
        assert found == [(0.1, 1, "sgd"), (0.2, 2, "sgd"), (0.5, 20, "adam")]
        assert spec.swept_keys == ("train.lr", "train.epochs", "train.optimizer")

    def test_a_swept_value_wins_over_the_shared_one(self, load: Load) -> None:
        spec = load("{EXPERIMENT}\n  train: {lr: 0.5, epochs: 7}\nsearch:\n  - grid: {train.lr: [0.1]}\n")
        assert (spec.plans[0].config.train.lr, spec.plans[0].config.train.epochs) == (0.1, 7)

    def test_cells_that_ask_for_one_trial_are_merged_into_the_first(self, load: Load) -> None:
        spec = load(
            "{EXPERIMENT}\nsearch:\n"
            "  - grid: {train.lr: [1.0e-3, 0.001, 0.01]}\n"
            "  - zip: {train.lr: [0.01, 0.1], train.epochs: [20, 20]}\n"  # 20 is the default
            "seeds: 2\n"
        )
        assert [(p.config.train.lr, p.config.seed) for p in spec.plans] == [
            (0.001, 0),
            (0.001, 1),
            (0.01, 0),
            (0.01, 1),
            (0.1, 0),
            (0.1, 1),
        ]
        assert spec.merged == 4
        assert len({plan.signature for plan in spec.plans}) == 6

    def test_seeds(self, load: Load) -> None:
        assert [p.config.seed for p in load("{EXPERIMENT}\nseeds: 3\n").plans] == [0, 1, 2]
        assert [p.config.seed for p in load("{EXPERIMENT}\nseeds: [7]\n").plans] == [7]
        assert [p.config.seed for p in load("{EXPERIMENT}\n  seed: 9\n").plans] == [9]
        assert [p.config.seed for p in load("{EXPERIMENT}\nseeds: null\n").plans] == [0]

    def test_lists_can_be_swept(self, load: Load) -> None:
        spec = load("{EXPERIMENT}\nsearch:\n  - grid: {train.scales_px: [[128], [96, 160]]}\n")
        assert [p.config.train.scales_px for p in spec.plans] == [(128,), (96, 160)]

    def test_what_is_kept_of_the_file(self, load: Load) -> None:
        text = "question: Why?\n{EXPERIMENT}\nresources: {cpu_slots: 3}\nretry: {max_attempts: 5}\n"
        assert load(text).tracking.wandb is None
        text += "tracking: {wandb: {project: p}}\n"
        spec = load(text)
        assert spec.question == "Why?"
        assert spec.text.startswith("question: Why?\nexperiment:\n")
        assert (spec.resources.cpu_slots, spec.retry.max_attempts) == (3, 5)
        assert spec.tracking.wandb is not None
        assert (spec.tracking.wandb.project, spec.tracking.wandb.entity, spec.tracking.wandb.mode) == (
            "p",
            None,
            "auto",
        )

    def test_a_fault_found_later_is_blamed_at_the_value(self, load: Load) -> None:
        spec = load("{EXPERIMENT}\nsearch:\n  - grid:\n      data.train:\n        - train\n        - tarin\n")
        error = spec.error("no such split", key="data.train", plan=spec.plans[1])
        assert error.where.endswith("sweep.yaml:9")
        assert spec.error("no", key="data.root", plan=spec.plans[1]).where.endswith("sweep.yaml:3")
