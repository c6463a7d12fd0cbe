"""The project as its user sees it: the tests of the other engines."""

from __future__ import annotations

from tests.integration.test_platform import (
    test_a_page_of_another_name_is_refused,
    test_artifacts_come_back_as_they_were,
    test_check_passes_line_by_line,
    test_credentials_in_every_format,
    test_doctor_finds_nothing_wrong,
    test_down_and_up_keep_the_run,
    test_everything_listens_on_loopback_only,
    test_links_in_the_notebook_open_in_the_browser,
    test_logs_of_each_service,
    test_notebook_trains_and_its_run_is_there,
    test_second_up_recreates_nothing,
    test_secret_files_are_the_owners_alone,
    test_status_in_every_format,
    test_the_database_syncs_what_it_acknowledges,
    test_the_notebook_address_stands_alone_on_stdout,
    test_up_ends_with_a_table,
    trained,
)
from tests.integration.test_waiting import (
    test_the_projects_own_server_searches_in_processes_of_its_services_account,
)

__all__ = [
    "test_a_page_of_another_name_is_refused",
    "test_artifacts_come_back_as_they_were",
    "test_check_passes_line_by_line",
    "test_credentials_in_every_format",
    "test_doctor_finds_nothing_wrong",
    "test_down_and_up_keep_the_run",
    "test_everything_listens_on_loopback_only",
    "test_links_in_the_notebook_open_in_the_browser",
    "test_logs_of_each_service",
    "test_notebook_trains_and_its_run_is_there",
    "test_second_up_recreates_nothing",
    "test_secret_files_are_the_owners_alone",
    "test_status_in_every_format",
    "test_the_database_syncs_what_it_acknowledges",
    "test_the_notebook_address_stands_alone_on_stdout",
    "test_the_projects_own_server_searches_in_processes_of_its_services_account",
    "test_up_ends_with_a_table",
    "trained",
]
