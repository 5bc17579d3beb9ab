"""Programs written as people wrote them between 2012 and 2017 run unmodified, and learn."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore:device=gpu", "ignore:.*ignore_border")


def mean_of_ends(costs):
    """The mean of the first and of the last fifth."""
    part = max(1, len(costs) // 5)
    return np.mean(costs[:part]), np.mean(costs[-part:])


def test_logistic_regression_learns_and_predicts(run_program):
    program = run_program("logistic_regression")
    first, last = mean_of_ends(program["costs"])
    assert last < 0.5 * first
    assert program["test_score"] < 0.1
    assert program["predicted"].shape == (10,)


def test_the_first_cost_of_softmax_regression_is_that_of_a_guess(run_program):
    program = run_program("logistic_regression")
    np.testing.assert_allclose(program["costs"][0], np.log(4), rtol=1e-6)


def test_a_multilayer_perceptron_learns_with_momentum_and_penalties(run_program):
    program = run_program("multilayer_perceptron")
    assert program["history"][-1][0] < 0.7 * program["history"][0][0]
    assert program["history"][-1][1] < 0.2
    weights = program["classifier"].params[0].get_value()
    np.testing.assert_array_equal(weights, program["weights"][0])
    assert weights.dtype == "float32"


def test_the_convolutional_network_of_the_tutorials_learns(run_program):
    program = run_program("convolutional_mlp")
    first, last = mean_of_ends(program["costs"])
    np.testing.assert_allclose(program["costs"][0], np.log(4), rtol=1e-5)
    assert last < 0.7 * first


def test_the_convolutional_network_gives_the_same_in_double_precision(run_program):
    single = run_program("convolutional_mlp")["costs"]
    double = run_program("convolutional_mlp", floatX="float64")["costs"]
    np.testing.assert_allclose(single, double, rtol=1e-4)


def test_stacked_denoising_autoencoders_learn_with_default_values_of_inputs(run_program):
    program = run_program("stacked_autoencoders")
    for history in program["histories"]:
        assert history[-1] < history[0]
    assert np.isfinite(program["with_defaults"])


def test_gibbs_chains_in_a_scan_draw_anew_at_each_call(run_program):
    program = run_program("restricted_boltzmann_machine")
    assert np.isfinite(program["costs"]).all()
    chains = program["chains"]
    assert set(np.unique(chains[0])) <= {0.0, 1.0}
    assert not np.array_equal(chains[0], chains[1])
    assert program["costs"][-1] > program["costs"][0], "the logarithm of how probable the images are"


def test_network_classes_with_dropout_learn(run_program):
    program = run_program("network_classes")
    first, last = mean_of_ends(program["net"].costs)
    assert last < first
    assert program["net"].best_validation_accuracy > 0.8
    assert program["net"].predictions[0].shape == (10,)


def test_a_layer_library_around_filter_acts_learns(run_program):
    program = run_program("filter_acts_layers")
    first, last = mean_of_ends(program["costs"])
    assert last < 0.8 * first
    # 12 pixels padded by 2, filters of 5: 12; pool of 3 by 2, rounded up: 6; filters of 3 by 2, rounded up: 3
    assert program["shape"].tolist() == [32, 16, 3, 3]


def test_the_layer_benchmark_runs_and_both_its_layouts_agree(run_program, capsys):
    program = run_program("wrapper_benchmark", "2")
    assert capsys.readouterr().out.count("bprop weights") == 2 * 4
    for (ni, no), (bc01, c01b) in program["results"].items():
        maps, filters = bc01[1], bc01[2]
        np.testing.assert_allclose(c01b[1].transpose(3, 0, 1, 2), maps, rtol=1e-4, atol=1e-4)
        flipped = c01b[2].transpose(3, 0, 1, 2)[:, :, ::-1, ::-1]
        np.testing.assert_allclose(flipped, filters, rtol=1e-3, atol=1e-2 * np.abs(filters).max())
        assert maps.shape[1] == no
        assert filters.shape[1] == ni


def test_wrappers_of_four_libraries_are_one_network(run_program):
    results = run_program("four_wrappers")["results"]
    assert set(results) == {"Plain", "ByGemm", "ByCudnn", "ByCudaConvnet"}
    costs = np.array(list(results.values()))
    np.testing.assert_allclose(costs[:, 0], costs[0, 0], rtol=1e-4)
    assert (costs[:, 1] < costs[:, 0]).all()


def test_maxout_in_c01b_learns_with_censored_norms_and_stochastic_pools(run_program):
    program = run_program("maxout_c01b")
    assert min(program["costs"][-5:]) < 0.9 * program["costs"][0]
    assert program["second"].space == (5, 2, 2)
    assert program["norms"].max() < 0.9 + 1e-5
    assert [unit.shape for unit in program["units"]] == [(3, 5, 5, 24), (3, 10, 10, 24)]
    assert program["back"].shape == (24, 3, 10, 10)[1:] + (24,)


def test_a_short_script_with_full_convolutions_learns(run_program):
    program = run_program("full_convolutions")
    first, last = mean_of_ends(program["costs"])
    assert last < 0.8 * first
    assert program["accuracy"] > 0.6


def test_two_groups_learn_images_from_cifar10s_own_pickles(run_program, tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("data_batch_1", 48), ("test_batch", 16)):
        labels = rng.integers(0, 4, count)
        pixels = rng.integers(0, 60, (count, 3, 32, 32))
        for image, label in zip(pixels, labels, strict=True):
            image[:, 16 * (label // 2) :, 16 * (label % 2) :][:, :16, :16] += 150
        batch = {"data": pixels.reshape(count, -1).astype("uint8"), "labels": labels.tolist(), "batch_label": name}
        (tmp_path / name).write_bytes(pickle.dumps(batch, protocol=2))
    for costs, (cost, error) in run_program("grouped_layers", str(tmp_path))["results"].values():
        first, last = mean_of_ends(costs)
        assert last < 0.9 * first
        assert np.isfinite(cost)
        assert error < 0.75


def test_gradients_of_a_programs_own_take_the_place_of_derivatives(run_program):
    program = run_program("gradient_recipes")
    plain, guided = program["saliencies"]
    assert plain.any()
    assert not guided.any(), "where the score falls no gradient is positive"
    assert program["turned"].tolist() == [-0.5, -0.5]
    assert program["binaries"].tolist() == [-1, 1]
    assert program["passed"].tolist() == [1, 1]
    np.testing.assert_allclose(program["stopped"], program["values"])


def test_an_operator_of_a_script_runs_in_numbas_mode(run_program):
    """It is called back there, by what its pickle holds."""
    assert run_program("gradient_recipes", mode="NUMBA")["turned"].tolist() == [-0.5, -0.5]


def test_a_generator_by_cudnn_descriptors_trains_against_its_critic(run_program):
    program = run_program("adversarial_generator")
    assert np.isfinite(program["costs"]).all()
    one, other = program["samples"]
    assert one.shape == (8, 1, 12, 12)
    assert not np.array_equal(one, other), "each call draws anew"


def test_recurrent_programs_scan_clone_and_choose(run_program):
    program = run_program("recurrent_attention")
    assert program["costs"][-1] < program["costs"][0]
    fibonacci, power, total = program["numbers"]
    assert fibonacci.tolist() == [1, 2, 3, 5, 8, 13]
    assert power.tolist() == [1, 8, 27]
    assert float(total) == 6
    assert program["x"] in program["inputs"]
    assert program["replaced"][0] != program["replaced"][1]
    assert program["stopped"].tolist() == [1, 2, 3]


def test_the_runner_runs_a_script_with_arguments_and_flags(tmp_path):
    script = tmp_path / "old.py"
    script.write_text(
        """
import sys
import numpy
import theano, theano.tensor as T
import beside
x = T.matrix()
f = theano.function([x], T.nnet.softmax(x), allow_input_downcast=True)
print(sys.argv[1:], __name__, theano.config.floatX, f(numpy.zeros((1, 2), numpy.float)).dtype, beside.number)
"""
    )
    (tmp_path / "beside.py").write_text("number = 7\n")
    flags = {"THEANO_FLAGS": "device=cpu,floatX=float32,mode=FAST_COMPILE", "THEANORC": ""}
    command = [sys.executable, "-m", "pytensor_convnet.compat", str(script), "a", "-b"]
    ran = subprocess.run(command, env={**os.environ, **flags}, capture_output=True, text=True, check=False)
    assert ran.stdout == "['a', '-b'] __main__ float32 float32 7\n", ran.stderr


@pytest.mark.parametrize(("arguments", "said"), [([], "usage:"), (["nowhere.py"], "there is no script nowhere.py")])
def test_the_runner_says_what_it_needs(arguments, said):
    command = [sys.executable, "-m", "pytensor_convnet.compat", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert said in ran.stdout + ran.stderr


def test_the_runner_restores_names_that_python_and_numpy_have_removed(tmp_path):
    script = tmp_path / "old.py"
    (tmp_path / "settings.py").write_text("rate = 0.1\n")
    script.write_text(
        f"""
import collections, fractions, imp, inspect, time
import numpy as np
start = time.clock()
assert isinstance([], collections.Iterable) and fractions.gcd(6, 4) == 2
assert inspect.getargspec(lambda a, b=1, *c, **d: 0) == (["a", "b"], "c", "d", (1,))
assert imp.load_source("chosen", {str(tmp_path / "settings.py")!r}).rate == 0.1
assert np.rank(np.zeros((1, 1))) == 2 and np.float is float and np.isinf(np.NINF)
print(np.cast["float32"]([1]).dtype, np.product([2, 3]), time.clock() >= start)
"""
    )
    command = [sys.executable, "-W", "ignore", "-m", "pytensor_convnet.compat", str(script)]
    ran = subprocess.run(command, env={**os.environ, "THEANORC": ""}, capture_output=True, text=True, check=False)
    assert ran.stdout == "float32 6 True\n", ran.stderr


def test_the_runner_keeps_advice_for_new_programs_from_old_ones(tmp_path):
    script = tmp_path / "old.py"
    script.write_text(
        """
import theano, theano.tensor as T
x = T.TensorType("float64", broadcastable=(False,))("x")
mean = theano.shared(0.0)
running = theano.clone(mean, share_inputs=False)
running.default_update = 0.9 * running + 0.1 * x.mean()
theano.function([x], x + 0 * running, mode="FAST_COMPILE")([1.0, 3.0])
print(mean.get_value())
"""
    )
    command = [sys.executable, "-m", "pytensor_convnet.compat", str(script)]
    environment = {**os.environ, "THEANORC": "", "THEANO_FLAGS": ""}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("0.2\n", "")


def test_the_runner_has_six_even_where_it_is_not_installed(tmp_path):
    script = tmp_path / "old.py"
    script.write_text(
        """
import six.moves.cPickle as pickle
import six
from six.moves import xrange, zip_longest, cPickle, urllib
from six.moves.urllib.parse import quote
assert cPickle is pickle and callable(urllib.parse.quote)
assert isinstance("", six.string_types) and isinstance(1, six.integer_types)
print(pickle.loads(pickle.dumps([1])), list(xrange(2)), dict(six.iteritems({"a": 1})), quote("a b"), six.PY3)
"""
    )
    blocker = tmp_path / "sitecustomize.py"  # as if it were not installed
    blocker.write_text(
        """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "six" else find(name, package)
"""
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-m", "pytensor_convnet.compat", str(script)]
    environment = {**os.environ, "PYTHONPATH": path, "THEANORC": ""}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout == "[1] [0, 1] {'a': 1} a%20b True\n", ran.stderr
