"""How AWS scales a SageMaker variant by target tracking: the times and counts nobody can set.

The rehearsal AWS scales by them, the capacity model of a day expects them. Seconds of AWS time.
"""

# AWS's default for production variants (API reference, TargetTrackingScalingPolicyConfiguration).
COOLDOWN_S = 300
# A datapoint of the concurrent requests, "high resolution".
SAMPLE_S = 10.0
# The alarms: three datapoints above the target, fifteen minutes below nine tenths of it. The user
# guide says "usually more than 10% lower"; the other numbers are what people see of these alarms
# in CloudWatch [unverified], as is that datapoints of ten seconds need fifteen minutes, too.
HIGH_DATAPOINTS = 3
LOW_S = 900.0
LOW_SHARE = 0.9
# Public reports say "a minute or two" of scale-ins; none measured here [unverified].
SCALE_IN_S = 60.0
