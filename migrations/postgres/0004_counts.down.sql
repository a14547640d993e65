DROP TABLE audit_log_counts;
