"""Issue 14's lists, each item with the tests that stand for it: what is named here is there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

# The items of the contract's checklist 7 as far as we use Fly by now; the rest (ssh console, MPG, attach) comes with its user.
CHECKLIST = {
    "1 names, errors on stderr, exit codes, interrupts": [
        "fly/test_stand_in::test_0_1_both_names_are_there_and_errors_go_to_stderr_with_exit_1",
        "fly/test_stand_in::test_0_1_an_interrupt_is_127_and_silent",
        "fly/test_stand_in::test_0_1_a_crash_is_exit_3",
    ],
    "2 login, order of tokens, scopes": [
        "fly/test_stand_in::test_0_2_without_a_token",
        "fly/test_stand_in::test_0_3_the_order_of_tokens_and_of_apps",
        "fly/test_stand_in::test_0_2_an_app_of_somebody_else_and_one_that_is_not_there_look_alike",
        "fly/test_stand_in::test_1_1_version_needs_no_token_and_is_one_line",
        "fly/test_stand_in::test_1_22_what_a_token_may_do",
        "fly/test_stand_in::test_1_22_two_tokens_of_one_app_each_go_together",
    ],
    "3 states, leases, releases, the edge that wakes, scale destroys": [
        "fly/test_stand_in::test_1_5_a_stop_does_not_wait_without_w",
        "fly/test_stand_in::test_5_1_a_request_wakes_a_stopped_machine",
        "fly/test_stand_in::test_5_1_no_request_wakes_it_when_autostart_is_off",
        "fly/test_stand_in::test_1_12_the_plan_stands_on_stdout_and_needs_a_yes",
        "fly/test_stand_in::test_1_12_a_created_machine_is_another_one",
        "fly/test_stand_in::test_1_12_from_zero_the_size_comes_from_the_release",
    ],
    "5 proxy: ready before anybody answers, ends well by a signal, counts what it carries": [
        "fly/test_stand_in_proxy::test_1_17_the_ready_line_names_port_and_remote_and_quiet_keeps_it",
        "fly/test_stand_in_proxy::test_1_17_a_dead_address_and_a_wrong_port_are_taken_and_closed_without_a_word",
        "fly/test_stand_in_proxy::test_1_17_a_signal_ends_it_well",
        "fly/test_stand_in_proxy::test_1_17_watch_stdin_ends_with_stdin",
    ],
    "6 ssh issue and the server that takes its certificates: no shell, no forwarding": [
        "fly/test_certificates::test_1_15_it_writes_key_and_certificate_for_us_alone",
        "fly/test_certificates::test_1_15_the_path_is_the_second_word_even_with_o",
        "fly/test_certificates::test_1_15_traps_of_files_that_are_there",
        "fly/test_certificates::test_1_15_the_environments_organisation_beats_the_word",
        "fly/test_certificates::test_1_22_an_apps_own_token_gets_none",
        "fly/test_remote::test_the_far_end_has_no_shell_of_its_own",
        "fly/test_remote::test_the_far_end_forwards_nothing",
        "fly/test_remote::test_what_the_far_end_does_not_take_is_explained",
    ],
    "9 JSON, English, missing config": [
        "fly/test_stand_in::test_0_4_json_has_four_spaces_and_noise_stands_on_stdout",
        "fly/test_stand_in::test_1_4_an_empty_list_and_a_lost_host",
        "fly/test_stand_in::test_1_4_what_is_empty_is_left_out_and_cordoned_is_always_there",
    ],
    "11 secrets": [
        "fly/test_stand_in::test_1_21_a_staged_secret_reaches_a_machine_by_an_update_and_not_by_a_restart",
        "fly/test_stand_in::test_1_21_secrets_deploy_needs_a_machine",
        "fly/test_stand_in::test_1_21_a_secret_that_is_set_restarts_what_runs_and_wakes_nothing",
        "fly/test_stand_in::test_5_1_a_process_that_keeps_its_old_secret",
    ],
    "13 replacing and 412, leases that outlive, several at once": [
        "fly/test_stand_in::test_1_6_412_amid_replacing_and_no_capacity",
        "fly/test_stand_in::test_1_11_an_update_of_a_stopped_machine_leaves_it_stopped",
        "fly/test_stand_in::test_1_5_a_lease_outlives_a_caller_that_was_killed",
        "fly/test_stand_in::test_1_5_a_lease_lasts_two_minutes_unless_a_test_says_less",
        "fly/test_stand_in::test_1_5_several_end_at_the_first_failure",
    ],
    "14 scale from zero, no release, a failed one": [
        "fly/test_stand_in::test_1_12_from_zero_the_size_comes_from_the_release",
        "fly/test_stand_in::test_1_12_a_release_is_needed_and_a_failed_one_counts",
        "fly/test_fleet::test_from_a_failed_release_no_machine_is_made",
    ],
    "17 PolyLadder's own shape": [
        "fly/test_stand_in::test_1_21_config_checks_and_volumes",
        "fly/test_stand_in::test_9_1_the_database_app",
    ],
}
BAD_INPUT = {
    "no token": ["fly/test_flyctl::test_a_failure_is_named_with_its_cure"],
    "expired token": ["fly/test_tasks_fly::test_at_rehearsal_tokens_and_names_count"],
    "a token of another scope": [
        "fly/test_flyctl::test_a_token_of_another_app_is_told_as_such",
        "fly/test_fleet::test_a_token_that_may_only_look_stops_nothing",
    ],
    "a token of another organisation": ["fly/test_stand_in::test_1_22_what_a_token_may_do"],
    "who ran fly auth login": [
        "fly/test_flyctl::test_a_persons_own_login_is_used_where_no_token_is_set",
        "fly/test_flyctl::test_who_ran_fly_auth_login_has_fly_without_a_setting",
        "test_health::test_who_is_logged_in_at_fly_needs_no_address_and_sees_the_machines",
    ],
    "FLY_APP, FLY_ORG, LOG_LEVEL exported": [
        "fly/test_flyctl::test_what_a_person_exported_does_not_lead_elsewhere",
        "fly/test_flyctl::test_the_childs_environment_is_ours_alone",
    ],
    "app missing": ["fly/test_tasks_fly::test_at_rehearsal_tokens_and_names_count"],
    "no machine started": [
        "fly/test_tasks_fly::test_the_evening_that_readme_promises",
        "fly/test_fleet::test_an_app_that_sleeps_by_itself_is_woken_and_a_worker_that_slept_is_told",
    ],
    "a machine woken while it should be down": [
        "fly/test_fleet::test_a_machine_that_a_request_wakes_meanwhile_is_stopped_again",
    ],
    "a lease held": ["fly/test_fleet::test_a_lease_of_a_killed_command_is_waited_for"],
    "capacity gone on start": ["fly/test_fleet::test_autostart_is_given_back_though_no_machine_can_start"],
    "host unreachable": [
        "fly/test_fleet::test_a_lost_host_is_told_before_anything_is_touched",
        "fly/test_coming_back::test_a_machine_whose_host_is_lost_is_not_taken_for_one_that_runs",
        "fly/test_tasks_fly::test_a_dry_run_meets_what_the_real_one_would",
    ],
    "two groups, a worker without services": [
        "fly/test_fleet::test_workers_are_stopped_and_started_too",
        "fly/test_fleet::test_of_several_groups_one_must_be_named",
        "fly/test_coming_back::test_a_group_that_came_back_alone_is_no_difference_for_the_others",
        "fly/test_coming_back::test_what_is_still_stopped_is_not_forgotten_by_a_group_beside_it",
    ],
    "a machine replaced between list and use": [
        "fly/test_fleet::test_a_machine_that_a_deploy_puts_in_anothers_place_is_stopped_too",
    ],
    "noise on stdout": [
        "fly/test_flyctl::test_noise_before_the_json_is_passed_over",
        "fly/test_flyctl::test_a_line_before_the_json_may_begin_as_json_does",
    ],
    "English instead of JSON": [
        "fly/test_flyctl::test_what_is_no_json_is_no_empty_list",
        "fly/test_fleet::test_an_answer_that_can_not_be_read_is_not_an_app_that_is_down",
    ],
    "scale without a release, from a failed one": [
        "fly/test_fleet::test_scale_without_a_release_is_told",
        "fly/test_fleet::test_from_a_failed_release_no_machine_is_made",
        "fly/test_fleet::test_a_group_of_two_images_is_not_green",
        "fly/test_fleet::test_what_was_made_of_a_release_that_failed_meanwhile_is_not_green",
    ],
    "SIGKILL of flyctl alone": [
        "fly/test_fleet::test_after_kill_9_of_flyctl_alone_the_cause_is_told_and_a_rerun_finishes",
    ],
    "SIGKILL between stop and update, then a rerun, here and from another folder": [
        "fly/test_fleet::test_after_kill_9_between_stop_and_update_a_rerun_finishes_and_start_undoes",
        "fly/test_fleet::test_from_another_folder_the_machines_tell_their_shape",
        "fly/test_fleet::test_a_second_run_never_writes_over_the_shape_of_the_first",
    ],
    "a migration that fails half-way": [
        "test_migrate::test_a_failure_half_way_leaves_nothing_and_says_so",
        "test_migrate::test_what_a_commit_left_behind_is_told",
        "test_migrate::test_what_rows_a_commit_left_behind_is_not_called_nothing",
    ],
    "pnpm missing": ["test_migrate::test_without_node_or_pnpm_the_cure_is_said"],
    "filter without match": ["test_migrate::test_a_workspace_without_the_package_is_named"],
    "health 200 from a machine on the wrong database": [
        "test_health::test_a_good_answer_from_another_database_is_red",
        "fly/test_tasks_fly::test_a_machine_with_an_old_secret_is_red_though_it_answers_200",
    ],
    "500, timeout, 429, redirects": [
        "test_health::test_an_answer_has_one_kind_and_only_one_kind_is_well",
        "test_health::test_a_redirect_is_told_and_not_followed",
        "test_health::test_a_redirect_in_a_circle_is_one_request",
        "test_health::test_who_accepts_and_says_nothing_is_silent",
    ],
    "the API down": [
        "fly/test_tasks_fly::test_fly_down_is_said_and_does_not_make_a_well_app_ill",
        "fly/test_coming_back::test_a_look_that_fails_by_itself_ends_nothing_half_way",
    ],
    "unmanaged machines": [
        "fly/test_fleet::test_what_runs_beside_the_app_is_told_and_left_alone",
        "fly/test_tasks_fly::test_a_console_beside_the_stopped_app_is_told",
        "fly/test_coming_back::test_a_stopped_machine_beside_the_app_that_a_request_wakes_is_told",
    ],
    "the database's app": ["fly/test_fleet::test_a_databases_app_is_never_touched"],
    "calls counted": [
        "fly/test_fleet::test_a_stop_is_five_calls_and_ends_with_two_looks_that_agree",
        "fly/test_fleet::test_to_zero_and_back_is_what_it_was_in_four_calls_each",
        "fly/test_tasks_fly::test_a_status_is_one_call",
    ],
}


def names_in(module: str) -> set[str]:
    tree = ast.parse((TESTS / f"{module}.py").read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("item", [*CHECKLIST.items(), *BAD_INPUT.items()], ids=[*CHECKLIST, *BAD_INPUT])
def test_each_item_has_its_tests(item: tuple[str, list[str]]) -> None:
    assert item[1]
    for test in item[1]:
        module, _, name = test.partition("::")
        assert name in names_in(module), test
