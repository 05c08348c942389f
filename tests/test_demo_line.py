"""Who waits and who is served."""

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from helpers.demo.line import Line


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def monotonic(self):
        return self.now_s


def a_line(slots):
    clock = Clock()
    return Line(slots, clock=clock), clock


def turns_at(place):
    """All that a place says about its way to a slot, in a task of its own."""
    heard = SimpleNamespace(places=[], is_over=False)

    async def listen():
        async for ahead in place.moving_up():
            heard.places.append(ahead)
        heard.is_over = True

    heard.task = asyncio.ensure_future(listen())
    return heard


async def let_all_run():
    for _ in range(5):
        await asyncio.sleep(0)


def in_a_loop(test):
    def run():
        asyncio.run(asyncio.wait_for(test(), 30))

    run.__name__ = test.__name__
    return run


@in_a_loop
async def test_who_comes_first_is_served_first():
    line, _ = a_line(1)
    first, second, third = (line.enter() for _ in range(3))
    heard = [turns_at(place) for place in (first, second, third)]
    await let_all_run()
    assert [one.places for one in heard] == [[], [1], [2]]
    first.leave()
    await let_all_run()
    assert [one.is_over for one in heard] == [True, True, False]
    second.leave()
    await let_all_run()
    assert heard[2].is_over
    assert heard[2].places == [2, 1]


@in_a_loop
async def test_who_leaves_the_line_lets_the_others_move_up():
    line, _ = a_line(1)
    _, second, third = (line.enter() for _ in range(3))
    heard = [turns_at(place) for place in (second, third)]
    await let_all_run()
    second.leave()
    await let_all_run()
    assert [one.is_over for one in heard] == [True, False]
    assert heard[1].places == [2, 1]


@in_a_loop
async def test_a_change_while_the_last_one_is_shown_is_not_lost():
    line, _ = a_line(1)
    first, second, third = (line.enter() for _ in range(3))
    places = []
    async for ahead in third.moving_up():
        places.append(ahead)
        (second if ahead == 2 else first).leave()  # before anybody waits for it
    assert places == [2, 1]


@in_a_loop
async def test_who_is_canceled_while_waiting_holds_nobody_up():
    line, _ = a_line(1)
    first, second, third = (line.enter() for _ in range(3))
    heard = [turns_at(place) for place in (second, third)]
    await let_all_run()
    heard[0].task.cancel()
    first.leave()
    await let_all_run()
    assert not heard[1].is_over  # the slot is the canceled one's until it leaves
    second.leave()
    await let_all_run()
    assert heard[1].is_over


@in_a_loop
async def test_leaving_twice_gives_away_one_slot():
    line, _ = a_line(1)
    first, second, third = (line.enter() for _ in range(3))
    heard = [turns_at(place) for place in (second, third)]
    first.leave()
    first.leave()
    await let_all_run()
    assert [one.is_over for one in heard] == [True, False]


@in_a_loop
async def test_waiting_is_timed():
    line, clock = a_line(1)
    first, second = line.enter(), line.enter()
    clock.now_s = 7.0
    first.leave()
    clock.now_s = 9.0
    second.leave()
    assert (first.waited_s, second.waited_s) == (0.0, 7.0)
    assert (first.machine_s, second.machine_s) == (7.0, 2.0)


@in_a_loop
async def test_two_at_once_share_the_machine():
    line, clock = a_line(2)
    first = line.enter()
    clock.now_s = 4.0
    second = line.enter()
    clock.now_s = 10.0
    first.leave()
    clock.now_s = 11.0
    second.leave()
    clock.now_s = 20.0
    first.leave()
    assert (first.machine_s, second.machine_s) == (7.0, 4.0)


SLOTS = 3


class Visitors(RuleBasedStateMachine):
    """People come, go and wait, in any order, over a line that is compared with a plain list."""

    places = Bundle("places")

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.line, self.clock = a_line(SLOTS)
        self.inside, self.gone, self.heard = [], [], {}
        self.busy_s = 0.0

    @rule(target=places)
    def come(self):
        return self._do(self._come())

    @rule(place=consumes(places))
    def go(self, place):
        self._do(self._go(place))

    @rule(place=places)
    def go_and_be_forgotten_by_others(self, place):
        self._do(self._go(place))  # may be told to go again

    @rule(seconds=st.integers(1, 50))
    def wait(self, seconds):
        self.clock.now_s += seconds
        self.busy_s += seconds * bool(self.inside)

    @invariant()
    def the_first_are_served_and_the_others_know_their_place(self):
        for index, place in enumerate(self.inside):
            ahead = index + 1 - SLOTS
            assert self.heard[place].is_over == (ahead <= 0)
            if ahead > 0:
                assert self.heard[place].places[-1] == ahead
        for heard in self.heard.values():
            assert heard.places == sorted(set(heard.places), reverse=True)
        assert all(self.heard[place].is_over for place in self.gone)

    def teardown(self):
        for place in list(self.inside):
            self._do(self._go(place))
        assert sum(place.machine_s for place in self.gone) == pytest.approx(self.busy_s)
        assert all(heard.task.done() for heard in self.heard.values())
        self.loop.close()

    def _do(self, coroutine):
        return self.loop.run_until_complete(coroutine)

    async def _come(self):
        place = self.line.enter()
        self.inside.append(place)
        self.heard[place] = turns_at(place)
        await let_all_run()
        return place

    async def _go(self, place):
        place.leave()
        if place in self.inside:
            self.inside.remove(place)
            self.gone.append(place)
        await let_all_run()


Visitors.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestVisitors = Visitors.TestCase
